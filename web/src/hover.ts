/** What lies over a pane and is not in the mask: the crosshair, the brush's ring, an outline, a rectangle. */

import type { Vec3 } from "./grid";
import { LABEL_COLOURS, type Pane, type Tile } from "./pane";
import type { Point } from "./shapes";
import type { Tools } from "./tools";
import type { Viewer } from "./viewer";

type Pen = CanvasRenderingContext2D;

/** Whether a voxel belongs to a region. */
export type Inside = (p: Vec3) => boolean;

/** Of what is drawn, not seen; the same as in style.css. */
const DRAWN_COLOUR = "rgb(255 214 64)";

/** Half the gap about the crosshair's voxel, in CSS pixels. */
const GAP = 9;

/** Draws all of it again. @param mouse where the pointer is, in canvas pixels; null when it is elsewhere */
export function drawOver(
  pane: Pane,
  viewer: Viewer,
  tools: Tools,
  mouse: [number, number] | null,
  drawn: Inside | null,
): void {
  const pen = cleared(pane);
  const scale = pane.gl.width / Math.max(pane.gl.clientWidth, 1);
  const { cross, view } = viewer;
  for (const tile of pane.tiles(cross)) {
    within(pen, tile, () => {
      if (drawn) outline(pen, tile, pane, drawn, scale);
      if (view.crosshair) crosshair(pen, tile, cross, scale);
      if (pane === viewer.active && tile.plane.w === 2) corners(pen, tile, tools, cross, scale);
    });
  }
  const tile = tools.drawing?.pane === pane ? tools.drawing.tile : mouse && pane.tileAt(...mouse, cross);
  if (tile && mouse && tools.draws) within(pen, tile, () => shape(pen, tile, tile.voxel(...mouse), tools, pane, scale));
}

function cleared(pane: Pane): Pen {
  const { over, gl } = pane;
  if (over.width !== gl.width || over.height !== gl.height) {
    over.width = gl.width;
    over.height = gl.height;
  }
  const pen = over.getContext("2d")!;
  pen.clearRect(0, 0, over.width, over.height);
  return pen;
}

function within(pen: Pen, tile: Tile, draw: () => void): void {
  pen.save();
  pen.beginPath();
  pen.rect(tile.rect.x, tile.rect.y, tile.rect.width, tile.rect.height);
  pen.clip();
  pen.beginPath();
  draw();
  pen.restore();
}

/** Along the edges of a region's voxels in the plane of a tile. */
function outline(pen: Pen, tile: Tile, pane: Pane, inside: Inside, scale: number): void {
  const { u, v, w, at } = tile.plane;
  const [nu, nv] = [pane.grid.shape[u], pane.grid.shape[v]];
  const held = new Uint8Array((nu + 2) * (nv + 2));
  const index = (i: number, j: number) => i + 1 + (j + 1) * (nu + 2);
  const p: Vec3 = [0, 0, 0];
  p[w] = at;
  for (let j = 0; j < nv; j++) {
    for (let i = 0; i < nu; i++) {
      p[u] = i;
      p[v] = j;
      if (inside(p)) held[index(i, j)] = 1;
    }
  }
  pen.beginPath();
  for (let j = 0; j <= nv; j++) {
    for (let i = 0; i <= nu; i++) {
      const here = held[index(i, j)];
      if (here !== held[index(i - 1, j)]) line(pen, tile, [i - 0.5, j - 0.5], [i - 0.5, j + 0.5]);
      if (here !== held[index(i, j - 1)]) line(pen, tile, [i - 0.5, j - 0.5], [i + 0.5, j - 0.5]);
    }
  }
  haloed(pen, DRAWN_COLOUR, scale);
  pen.beginPath();
}

function line(pen: Pen, tile: Tile, from: Point, to: Point): void {
  pen.moveTo(...pixel(tile, ...from));
  pen.lineTo(...pixel(tile, ...to));
}

function crosshair(pen: Pen, tile: Tile, cross: Vec3, scale: number): void {
  const [x, y] = tile.pixel(cross).map((c) => Math.round(c) + 0.5) as [number, number];
  const gap = GAP * scale;
  const { rect } = tile;
  pen.moveTo(rect.x, y);
  pen.lineTo(x - gap, y);
  pen.moveTo(x + gap, y);
  pen.lineTo(rect.x + rect.width, y);
  pen.moveTo(x, rect.y);
  pen.lineTo(x, y - gap);
  pen.moveTo(x, y + gap);
  pen.lineTo(x, rect.y + rect.height);
  pen.strokeStyle = "rgb(92 168 242 / 0.75)";
  pen.lineWidth = Math.max(1, Math.round(scale));
  pen.stroke();
}

/** Corners set by the keyboard, and the crosshair as the next one. */
function corners(pen: Pen, tile: Tile, tools: Tools, cross: Vec3, scale: number): void {
  if (tools.corners.length === 0) return;
  const here: Point = [cross[0], cross[1]];
  pen.beginPath();
  if (tools.settings.tool === "box") rectangle(pen, tile, tools.corners[0]!, here);
  else trace(pen, tile, [...tools.corners, here]);
  haloed(pen, colourOf(tools, false), scale);
}

/** The current tool's shape at a voxel position. */
function shape(pen: Pen, tile: Tile, position: Vec3, tools: Tools, pane: Pane, scale: number): void {
  const { settings, drawing } = tools;
  const tool = drawing?.tool ?? settings.tool;
  const erases = drawing ? drawing.label === 0 : tool === "eraser";
  const colour = colourOf(tools, erases);
  if (tool === "brush" || tool === "eraser") ring(pen, tile, position, settings.brush_mm / 2, pane);
  if (tool === "sphere") ring(pen, tile, position, settings.radius_mm, pane);
  if (tool === "contour" && drawing) trace(pen, tile, drawing.path);
  if (tool === "box" && drawing) rectangle(pen, tile, drawing.start, drawing.last);
  haloed(pen, colour, scale);
}

function colourOf(tools: Tools, erases: boolean): string {
  return `rgb(${(erases ? [235, 235, 235] : LABEL_COLOURS[tools.settings.label]!).join(" ")})`;
}

/** Strokes the path so that it is seen on bright and on dark. */
function haloed(pen: Pen, colour: string, scale: number): void {
  pen.strokeStyle = "rgb(0 0 0 / 0.6)";
  pen.lineWidth = 3.5 * scale;
  pen.stroke();
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5 * scale;
  pen.stroke();
}

function pixel(tile: Tile, u: number, v: number): [number, number] {
  const p: Vec3 = [0, 0, 0];
  p[tile.plane.u] = u;
  p[tile.plane.v] = v;
  return tile.pixel(p);
}

/** A circle in mm about the centre of the voxel under the pointer. */
function ring(pen: Pen, tile: Tile, p: Vec3, radius_mm: number, pane: Pane): void {
  const [u, v] = [Math.round(p[tile.plane.u]), Math.round(p[tile.plane.v])];
  const [x, y] = pixel(tile, u, v);
  const [x1, y1] = pixel(tile, u + 1, v + 1);
  const spacing = pane.grid.spacing_mm;
  const radius = (step: number, mm: number) => Math.max((Math.abs(step) * radius_mm) / mm, Math.abs(step) / 2);
  pen.ellipse(x, y, radius(x1 - x, spacing[tile.plane.u]), radius(y1 - y, spacing[tile.plane.v]), 0, 0, 2 * Math.PI);
}

function trace(pen: Pen, tile: Tile, path: readonly Point[]): void {
  path.forEach(([u, v], i) => (i === 0 ? pen.moveTo(...pixel(tile, u, v)) : pen.lineTo(...pixel(tile, u, v))));
  pen.closePath();
}

/** Around the outer edges of the voxels of two corners. */
function rectangle(pen: Pen, tile: Tile, a: Point, b: Point): void {
  const [x0, y0] = pixel(tile, Math.min(a[0], b[0]) - 0.5, Math.min(a[1], b[1]) - 0.5);
  const [x1, y1] = pixel(tile, Math.max(a[0], b[0]) + 0.5, Math.max(a[1], b[1]) + 0.5);
  pen.rect(x0, y0, x1 - x0, y1 - y0);
}
