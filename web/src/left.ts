/** What a page leaves behind when it is unloaded, for the same tab to go on with. */

import type { Source } from "./api";

export interface Left {
  session: string;
  source: Source;
  /** The mask was not saved. */
  unsaved: boolean;
}

/** How long the server keeps a session that was left. */
export const KEPT_S = 600;

const KEY = "tlp-left";

/** Files that were uploaded cannot be kept: the server has them while it keeps the session. */
export function leave({ session, source, unsaved }: Left): void {
  const kept: Source = source.kind === "upload" ? { kind: "upload", files: {} } : source;
  sessionStorage.setItem(KEY, JSON.stringify({ session, source: kept, unsaved }));
}

/** What was left, once: a second tab (a duplicate of this one) must not draw into the same session. */
export function takeLeft(): Left | null {
  const text = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  return text ? (JSON.parse(text) as Left) : null;
}
