/** Fingers on the screen: palms, and two fingers that move and zoom the image. */

import type { Pane } from "./pane";
import type { Viewer } from "./viewer";

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

/** Two fingers: what lay between them stays between them, as large as they are apart. */
export class Pinch {
  private distance: number;
  private middle: [number, number];

  constructor(
    private readonly viewer: Viewer,
    private readonly a: Contact,
    private readonly b: Contact,
  ) {
    this.distance = this.apart();
    this.middle = this.between();
  }

  /** Follows the fingers to where they are now. */
  follow(): void {
    const { pane } = this.a;
    const tile = pane.tileAt(...this.canvas(this.middle), this.viewer.cross);
    const [distance, middle] = [this.apart(), this.between()];
    if (tile) {
      const [from, to] = [this.middle, middle].map((p) => tile.voxel(...this.canvas(p as [number, number])));
      this.viewer.panBy(from!, to!);
      this.viewer.zoomBy(distance / this.distance, from!);
    }
    this.distance = distance;
    this.middle = middle;
  }

  private apart(): number {
    return Math.max(Math.hypot(this.a.x - this.b.x, this.a.y - this.b.y), 1);
  }

  private between(): [number, number] {
    return [(this.a.x + this.b.x) / 2, (this.a.y + this.b.y) / 2];
  }

  private canvas([clientX, clientY]: [number, number]): [number, number] {
    return this.a.pane.at({ clientX, clientY });
  }
}
