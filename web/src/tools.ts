/** The tools: what the mouse or the keyboard does in a pane, turned into shapes in the mask. */

import type { Editor } from "./editor";
import type { Plane, Vec3 } from "./grid";
import type { Label } from "./mask";
import type { Pane, Tile } from "./pane";
import { ball, block, disc, flood, line, type Point, polygon } from "./shapes";

export type Tool = "navigate" | "window" | "brush" | "eraser" | "contour" | "fill" | "box" | "sphere";

export interface ToolSettings {
  tool: Tool;
  label: 1 | 2;
  /** Diameter of brush and eraser. */
  brush_mm: number;
  /** Of the fill: of the shown window's width, in percent. */
  tolerance: number;
  /** Of the fill: how far from its seed. */
  reach_mm: number;
  /** Whether the fill takes voxels of the other class. */
  over: boolean;
  /** Of the box, across the slices. */
  depth_mm: number;
  radius_mm: number;
}

/** A drawing gesture: from the button's press to its release, in one tile. */
export interface Drawing {
  tool: Tool;
  pane: Pane;
  tile: Tile;
  label: Label;
  start: Point;
  last: Point;
  /** Positions passed, not rounded; the contour's outline. */
  path: Point[];
}

export class Tools {
  readonly settings: ToolSettings = {
    tool: "brush",
    label: 1,
    brush_mm: 8,
    tolerance: 10,
    reach_mm: 25,
    over: false,
    depth_mm: 9,
    radius_mm: 6,
  };
  drawing: Drawing | null = null;
  /** Points set by the keyboard: the box's first corner, the contour's corners. */
  corners: Point[] = [];

  constructor(private readonly editor: Editor) {}

  get draws(): boolean {
    return this.settings.tool !== "navigate" && this.settings.tool !== "window";
  }

  /** The button went down at a voxel position of a tile. */
  begin(pane: Pane, tile: Tile, position: Vec3, erase: boolean): void {
    if (this.editor.locked) return;
    const { tool, label } = this.settings;
    const start = rounded(tile.plane, position);
    if (!this.editor.mask.grid.contains(at(tile.plane, start))) return;
    const value: Label = erase || tool === "eraser" ? 0 : label;
    this.drawing = { tool, pane, tile, label: value, start, last: start, path: [exact(tile.plane, position)] };
    if (tool === "brush" || tool === "eraser") this.dab(this.drawing, start);
  }

  moveTo(position: Vec3): void {
    const drawing = this.drawing;
    if (!drawing) return;
    const here = rounded(drawing.tile.plane, position);
    drawing.path.push(exact(drawing.tile.plane, position));
    if (drawing.tool === "brush" || drawing.tool === "eraser") this.dab(drawing, here);
    drawing.last = here;
  }

  /** The button went up: shapes are drawn now. */
  end(): void {
    const drawing = this.drawing;
    if (!drawing) return;
    this.drawing = null;
    const { mask } = this.editor;
    const { plane } = drawing.tile;
    if (drawing.tool === "contour") polygon(mask, plane, drawing.path, drawing.label);
    if (drawing.tool === "box") {
      block(mask, plane, drawing.start, drawing.last, this.settings.depth_mm, drawing.label);
    }
    if (drawing.tool === "fill") this.fill(drawing.pane, plane, drawing.last, drawing.label);
    if (drawing.tool === "sphere") ball(mask, at(plane, drawing.last), this.settings.radius_mm, drawing.label);
    this.editor.finish();
  }

  cancel(): void {
    this.corners = [];
    if (!this.drawing) return;
    this.drawing = null;
    this.editor.abandon();
  }

  /**
   * The tool at the crosshair's voxel, by keyboard: brush, eraser, fill and sphere draw at once; a box is
   * drawn at its second corner; a contour takes corners and is filled by `close`.
   */
  stamp(pane: Pane, cross: Vec3, close: boolean): void {
    if (this.editor.locked || this.drawing || !this.draws) return;
    const { tool, label, brush_mm, depth_mm, radius_mm } = this.settings;
    const { mask } = this.editor;
    const plane: Plane = { u: 0, v: 1, w: 2, at: cross[2] };
    const here: Point = [cross[0], cross[1]];
    if (tool === "brush") disc(mask, plane, here, brush_mm, label);
    if (tool === "eraser") disc(mask, plane, here, brush_mm, 0);
    if (tool === "fill") this.fill(pane, plane, here, label);
    if (tool === "sphere") ball(mask, cross, radius_mm, label);
    if (tool === "contour" && !close) this.corners.push(here);
    if (tool === "contour" && close && this.corners.length > 2) {
      polygon(mask, plane, this.corners, label);
      this.corners = [];
    }
    if (tool === "box" && this.corners.push(here) === 2) {
      block(mask, plane, this.corners[0]!, here, depth_mm, label);
      this.corners = [];
    }
    this.editor.finish();
  }

  private dab(drawing: Drawing, to: Point): void {
    line(this.editor.mask, drawing.tile.plane, drawing.last, to, this.settings.brush_mm, drawing.label);
    this.editor.preview(drawing.pane);
  }

  private fill(pane: Pane, plane: Plane, seed: Point, label: Label): void {
    const width = pane.range.max - pane.range.min;
    const tolerance = (this.settings.tolerance / 100) * width;
    if (!this.editor.mask.grid.contains(at(plane, seed))) return;
    const { reach_mm, over } = this.settings;
    const mine = this.settings.label; // also where the fill erases
    const may = (there: number) => over || there === 0 || there === mine;
    flood(this.editor.mask, plane, (p) => pane.value(p), seed, { tolerance, reach_mm, may }, label);
  }
}

function exact(plane: Plane, p: Vec3): Point {
  return [p[plane.u], p[plane.v]];
}

function rounded(plane: Plane, p: Vec3): Point {
  return [Math.round(p[plane.u]), Math.round(p[plane.v])];
}

function at(plane: Plane, [u, v]: Point): Vec3 {
  const p: Vec3 = [0, 0, 0];
  p[plane.u] = u;
  p[plane.v] = v;
  p[plane.w] = plane.at;
  return p;
}
