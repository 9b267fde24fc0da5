/**
 * `window.tlp`, for tests and scripts. Read-only, but for `showSlice`.
 *
 * - `state`: { open, session, revision, serial, left, phase, message, busy, cross, shown, timing }
 * - `mask`: the labels as sent (Uint8Array, RAS order, x fastest); null while no case is open
 * - `synthesis`, `plain`: the results (Float32Array, same order)
 * - `panes`: the NiiVue instances by name (t1, t2, synthesis)
 * - `idle()`: resolves when nothing is under way or waiting and everything is painted; rejects when the loop failed
 * - `screenOf(pane, x, y, z)`: CSS position in the page of the centre of a voxel in a pane's axial tile,
 *   wherever the tile's slice is (z is shown by `showSlice`)
 * - `showSlice(z)`: moves the crosshair to a slice; resolves when it is painted
 */

import type { Niivue } from "@niivue/niivue";

import type { Case } from "./case";
import type { Vec3 } from "./grid";
import type { PaneName } from "./pane";

declare global {
  interface Window {
    tlp: ReturnType<typeof handle>;
  }
}

export function handle(now: () => Case | null) {
  const open = (): Case => {
    const found = now();
    if (!found) throw new Error("No case is open.");
    return found;
  };
  return {
    get state() {
      const found = now();
      if (!found) return { open: false, busy: false } as const;
      const { loop, viewer, display } = found;
      const { revision, serial, left, phase, message, busy, timing } = loop;
      const [session, cross, shown] = [loop.session.id, [...viewer.cross], display.shown];
      return { open: true, session, revision, serial, left, phase, message, busy, cross, shown, timing } as const;
    },
    get mask(): Uint8Array | null {
      return now()?.mask.data ?? null;
    },
    get synthesis(): Float32Array | null {
      return now()?.loop.results.synthesis ?? null;
    },
    get plain(): Float32Array | null {
      return now()?.loop.results.plain ?? null;
    },
    get panes(): Partial<Record<PaneName, Niivue>> {
      return Object.fromEntries([...(now()?.viewer.panes ?? [])].map(([name, pane]) => [name, pane.nv]));
    },
    async idle(): Promise<void> {
      for (;;) {
        const found = now();
        if (found?.loop.phase === "failed") throw new Error(found.loop.message);
        if (found?.idle) return;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    },
    screenOf(name: PaneName, x: number, y: number, z: number): { x: number; y: number } {
      const { viewer } = open();
      const pane = viewer.panes.get(name);
      const tile = pane?.axial(viewer.cross);
      if (!pane || !tile) throw new Error(`No axial tile of ${name} is shown.`);
      const [px, py] = tile.pixel([x, y, z] as Vec3);
      const rect = pane.over.getBoundingClientRect();
      const scale = rect.width / pane.gl.width;
      return { x: rect.left + px * scale, y: rect.top + py * scale };
    },
    async showSlice(z: number): Promise<void> {
      const { viewer } = open();
      viewer.moveTo([viewer.cross[0], viewer.cross[1], z]);
      await viewer.drawn();
    },
  };
}
