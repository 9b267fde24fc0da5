/** Mouse and pen in the panes: draw, move the crosshair, window, pan, zoom, scroll through slices. */

import type { Vec3 } from "./grid";
import { drawOver, type Inside } from "./hover";
import type { Pane, Tile } from "./pane";
import type { Tools } from "./tools";
import type { Viewer } from "./viewer";

type Drag =
  | { kind: "draw"; tile: Tile }
  | { kind: "cross"; tile: Tile }
  | { kind: "window"; from: [number, number]; range: { min: number; max: number } }
  | { kind: "pan"; tile: Tile; from: Vec3 };

const LEFT = 0;
const MIDDLE = 1;
const RIGHT = 2;

export class Pointer {
  private drag: Drag | null = null;
  private scrolled = 0;
  private mouse: { pane: Pane; at: [number, number] } | null = null;

  constructor(
    private readonly viewer: Viewer,
    private readonly tools: Tools,
    private readonly ranged: (pane: Pane) => void,
    /** What is outlined in a pane; null where nothing is. */
    private readonly drawn: (pane: Pane) => Inside | null,
  ) {}

  /** A button is down. */
  get dragging(): boolean {
    return this.drag !== null;
  }

  attach(pane: Pane): void {
    const { over } = pane;
    over.addEventListener("pointerdown", (event) => this.down(pane, event));
    over.addEventListener("pointermove", (event) => this.move(pane, event));
    over.addEventListener("pointerup", (event) => this.up(pane, event));
    over.addEventListener("pointercancel", () => this.cancel());
    over.addEventListener("pointerleave", () => this.leave(pane));
    over.addEventListener("contextmenu", (event) => event.preventDefault());
    over.addEventListener("wheel", (event) => this.wheel(pane, event), { passive: false });
    over.addEventListener("focus", () => (this.viewer.active = pane));
  }

  private down(pane: Pane, event: PointerEvent): void {
    if (this.drag) return;
    const from = pane.at(event);
    const tile = pane.tileAt(...from, this.viewer.cross);
    if (!tile) return;
    event.preventDefault();
    this.viewer.active = pane;
    pane.over.focus({ preventScroll: true });
    pane.over.setPointerCapture(event.pointerId);
    const { tool } = this.tools.settings;
    const windows = (event.button === LEFT && tool === "window") || (event.button === RIGHT && !this.tools.draws);
    if (event.button === MIDDLE) {
      this.drag = { kind: "pan", tile, from: tile.voxel(...from) };
    } else if (windows) {
      this.drag = { kind: "window", from, range: { ...pane.range } };
    } else if (event.button === LEFT && tool === "navigate") {
      this.drag = { kind: "cross", tile };
      this.viewer.moveTo(tile.voxel(...from));
    } else if (this.tools.draws && (event.button === LEFT || event.button === RIGHT)) {
      this.drag = { kind: "draw", tile };
      this.tools.begin(pane, tile, tile.voxel(...from), event.button === RIGHT);
      this.hover(pane, event);
    }
  }

  private move(pane: Pane, event: PointerEvent): void {
    const drag = this.drag;
    const here = pane.at(event);
    if (drag?.kind === "draw") {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length > 0 ? events : [event]) this.tools.moveTo(drag.tile.voxel(...pane.at(one)));
    } else if (drag?.kind === "cross") {
      this.viewer.moveTo(drag.tile.voxel(...here));
    } else if (drag?.kind === "pan") {
      this.viewer.panBy(drag.from, drag.tile.voxel(...here));
      this.drag = { kind: "pan", tile: drag.tile, from: drag.tile.voxel(...here) };
    } else if (drag?.kind === "window") {
      this.window(pane, drag, here);
    }
    this.hover(pane, event);
  }

  private up(pane: Pane, event: PointerEvent): void {
    const drag = this.drag;
    if (!drag) return;
    this.drag = null;
    if (drag.kind === "draw") {
      this.tools.moveTo(drag.tile.voxel(...pane.at(event)));
      this.tools.end();
    }
    this.hover(pane, event);
  }

  /** Takes the gesture under way back. */
  cancel(): void {
    this.drag = null;
    this.tools.cancel();
  }

  /** Draws what lies over a pane. */
  drawOver(pane: Pane): void {
    const mouse = this.mouse?.pane === pane ? this.mouse.at : null;
    drawOver(pane, this.viewer, this.tools, mouse, this.drawn(pane));
  }

  private window(pane: Pane, drag: { from: [number, number]; range: { min: number; max: number } }, to: number[]): void {
    const width = drag.range.max - drag.range.min;
    const scale = 1 / Math.max(pane.gl.clientHeight, 1);
    const wider = width * Math.exp(2 * scale * (to[0]! - drag.from[0]));
    const level = (drag.range.min + drag.range.max) / 2 + width * scale * (drag.from[1] - to[1]!);
    pane.setRange({ min: level - wider / 2, max: level + wider / 2 });
    this.viewer.draw(pane);
    this.ranged(pane);
  }

  private wheel(pane: Pane, event: WheelEvent): void {
    event.preventDefault();
    const here = pane.at(event);
    const tile = pane.tileAt(...here, this.viewer.cross);
    if (!tile || this.drag) return;
    if (event.ctrlKey) {
      this.viewer.zoomBy(Math.exp(-event.deltaY / 400), tile.voxel(...here));
      return;
    }
    this.scrolled += event.deltaMode === 0 ? event.deltaY / 100 : event.deltaY;
    const steps = Math.trunc(this.scrolled);
    this.scrolled -= steps;
    if (steps === 0) return;
    const move: Vec3 = [0, 0, 0];
    move[tile.plane.w] = -steps;
    this.viewer.moveBy(...move);
  }

  private hover(pane: Pane, event: MouseEvent): void {
    this.mouse = { pane, at: pane.at(event) };
    this.drawOver(pane);
  }

  private leave(pane: Pane): void {
    if (this.drag) return;
    this.mouse = null;
    this.drawOver(pane);
  }
}
