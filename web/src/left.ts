/** What a page leaves behind when it is unloaded, for the same tab to go on with. */

import { strFromU8, strToU8 } from "fflate";

import type { Source } from "./api";
import type { Vec3 } from "./grid";
import type { Overlay, PaneName } from "./pane";
import type { Range } from "./texture";
import type { ToolSettings } from "./tools";
import type { ViewOptions } from "./viewer";
import { gunzip, gzip } from "./nifti";

/** How a reader had set the page up. */
export interface Setup {
  cross: Vec3;
  tools: ToolSettings;
  view: ViewOptions;
  overlays: Partial<Record<PaneName, Overlay>>;
  windows: Partial<Record<PaneName, Range>>;
}

export interface Left {
  session: string;
  source: Source;
  /** The mask was not saved. */
  unsaved: boolean;
  setup: Setup;
  /** Labels of the whole mask, compressed; null where that is too large to keep. */
  mask: string | null;
}

/** How long the server keeps a session that was left. */
export const KEPT_S = 600;

const KEY = "tlp-left";

/** Files that were uploaded cannot be kept: the server has them while it keeps the session. */
export function leave(left: Left): void {
  const source: Source = left.source.kind === "upload" ? { kind: "upload", files: {} } : left.source;
  const kept = { ...left, source };
  try {
    sessionStorage.setItem(KEY, JSON.stringify(kept));
  } catch {
    sessionStorage.setItem(KEY, JSON.stringify({ ...kept, mask: null })); // beyond the browser's quota
  }
}

/** Labels as text, and back. */
export function packed(mask: Uint8Array): string {
  return btoa(strFromU8(gzip(mask), true));
}

export async function unpacked(text: string): Promise<Uint8Array> {
  return new Uint8Array(await gunzip(strToU8(atob(text), true).buffer as ArrayBuffer));
}

/** What was left, once: a second tab (a duplicate of this one) must not draw into the same session. */
export function takeLeft(): Left | null {
  const text = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  return text ? (JSON.parse(text) as Left) : null;
}
