/** Mouse, pen and finger in the panes: draw, move the crosshair, window, pan, zoom, scroll through slices. */

import type { Vec3 } from "./grid";
import { drawOver, type Inside } from "./hover";
import type { Pane, Tile } from "./pane";
import type { Tools } from "./tools";
import { isPalm, type Contact, Pinch } from "./touch";
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
  /** The pointer that draws or drags; others do not disturb it. */
  private owner = 0;
  private pinch: Pinch | null = null;
  private readonly fingers = new Map<number, Contact>();
  /** A pen was used: from then on fingers move the image and do not draw, as a hand rests on the screen. */
  private pen = false;
  private scrolled = 0;
  private mouse: { pane: Pane; at: [number, number] } | null = null;

  constructor(
    private readonly viewer: Viewer,
    private readonly tools: Tools,
    private readonly ranged: (pane: Pane) => void,
    /** What is outlined in a pane; null where nothing is. */
    private readonly drawn: (pane: Pane) => Inside | null,
  ) {}

  /** A button or a finger is down. */
  get dragging(): boolean {
    return this.drag !== null || this.pinch !== null;
  }

  attach(pane: Pane): void {
    const { over } = pane;
    over.addEventListener("pointerdown", (event) => this.down(pane, event));
    over.addEventListener("pointermove", (event) => this.move(pane, event));
    over.addEventListener("pointerup", (event) => this.up(pane, event));
    over.addEventListener("pointercancel", (event) => this.cancelled(event));
    over.addEventListener("pointerleave", () => this.leave(pane));
    over.addEventListener("contextmenu", (event) => event.preventDefault());
    over.addEventListener("wheel", (event) => this.wheel(pane, event), { passive: false });
    over.addEventListener("focus", () => (this.viewer.active = pane));
  }

  /** What touches the screen, before it does anything: a palm, a first finger, or a second one. */
  private touches(pane: Pane, event: PointerEvent): boolean {
    event.preventDefault();
    if (isPalm(event)) return false;
    this.fingers.set(event.pointerId, { pane, x: event.clientX, y: event.clientY });
    pane.over.setPointerCapture(event.pointerId);
    const [first, second] = [...this.fingers.values()];
    if (this.fingers.size === 1) return !this.pen || !this.tools.draws;
    if (this.fingers.size === 2 && first!.pane === second!.pane) {
      this.takeBack();
      this.pinch = new Pinch(this.viewer, first!, second!);
    }
    return false;
  }

  private down(pane: Pane, event: PointerEvent): void {
    if (event.pointerType === "pen") this.pen = true;
    if (event.pointerType === "touch" && !this.touches(pane, event)) return;
    if (this.drag) return;
    const from = pane.at(event);
    const tile = pane.tileAt(...from, this.viewer.cross);
    if (!tile) return;
    event.preventDefault();
    this.owner = event.pointerId;
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
    const finger = this.fingers.get(event.pointerId);
    if (finger) [finger.x, finger.y] = [event.clientX, event.clientY];
    if (this.pinch) {
      this.pinch.follow();
      return;
    }
    if (event.pointerType === "touch" && !finger) return; // a palm
    if (this.drag && event.pointerId !== this.owner) return;
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
    this.lifted(event);
    const drag = this.drag;
    if (!drag || event.pointerId !== this.owner) return;
    this.drag = null;
    if (drag.kind === "draw") {
      this.tools.moveTo(drag.tile.voxel(...pane.at(event)));
      this.tools.end();
    }
    this.hover(pane, event);
  }

  /** A finger is gone; after two, the one that is left draws nothing until it is lifted too. */
  private lifted(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
    if (this.fingers.size === 0) this.pinch = null;
  }

  private cancelled(event: PointerEvent): void {
    this.lifted(event);
    if (event.pointerId === this.owner) this.cancel();
  }

  /** Takes the gesture under way back. */
  cancel(): void {
    this.takeBack();
    this.tools.cancel();
  }

  private takeBack(): void {
    this.drag = null;
    if (this.tools.drawing) this.tools.cancel();
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
