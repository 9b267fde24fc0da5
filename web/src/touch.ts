/** Fingers on the screen: palms, and two fingers that move and zoom the image. */

import type { Vec3 } from "./grid";
import type { Pane, Tile } from "./pane";
import type { Placing, Viewer } from "./viewer";

/** A contact wider or higher than this (CSS pixels) is a palm or a hand's edge, and does nothing. */
const PALM_PX = 45;

/** A finger on a pane, where it is now (CSS pixels of the page). */
export interface Contact {
  pane: Pane;
  x: number;
  y: number;
}

export function isPalm({ width, height }: PointerEvent): boolean {
  return Math.max(width, height) > PALM_PX;
}

/**
 * Two fingers: what lay between them stays between them, as large as they are apart. Everything is told
 * from where they began, since several of their moves come before the next frame.
 */
export class Pinch {
  private readonly tile: Tile | null;
  private readonly distance: number;
  private readonly from: Vec3 | null;
  private readonly begun: Placing;

  constructor(
    private readonly viewer: Viewer,
    private readonly a: Contact,
    private readonly b: Contact,
  ) {
    this.tile = a.pane.tileAt(...this.middle(), viewer.cross);
    this.from = this.tile?.voxel(...this.middle()) ?? null;
    this.distance = this.apart();
    this.begun = viewer.placing;
  }

  /** Follows the fingers to where they are now. */
  follow(): void {
    if (!this.tile || !this.from) return;
    const to = this.tile.voxel(...this.middle());
    this.viewer.place(this.begun, this.from, to, this.apart() / this.distance);
  }

  private apart(): number {
    return Math.max(Math.hypot(this.a.x - this.b.x, this.a.y - this.b.y), 1);
  }

  /** Canvas pixel half-way between them. */
  private middle(): [number, number] {
    return this.a.pane.at({ clientX: (this.a.x + this.b.x) / 2, clientY: (this.a.y + this.b.y) / 2 });
  }
}
