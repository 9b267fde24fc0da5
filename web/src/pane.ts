/** One image next to the others: a NiiVue instance, its textures, and a 2D canvas for what hovers over it. */

import { cmapper, Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

import { type Grid, type Plane, TILE_AXES, type Vec3 } from "./grid";
import { GREY, ImageTexture, LabelTexture, type Palette, type Picture, type Range } from "./texture";

export type PaneName = "t1" | "t2" | "synthesis";

/** How the mask is shown over an image. */
export type Overlay = "fill" | "outline" | "none";
export const OVERLAYS: readonly Overlay[] = ["fill", "outline", "none"];

/** Label colours, [red, green, blue] of 255: none, tumour, oedema. The same as in style.css. */
export const LABEL_COLOURS: readonly [number, number, number][] = [
  [0, 0, 0],
  [255, 72, 72],
  [64, 200, 180],
];

/** A tile of a pane: one plane of the grid and where it lies on the canvas, in canvas pixels. */
export interface Tile {
  plane: Plane;
  rect: { x: number; y: number; width: number; height: number };
  /** Voxel position (centres at integers) of a canvas pixel, in the tile's plane. */
  voxel(px: number, py: number): Vec3;
  /** Canvas pixel of a voxel's centre, as if it lay in the tile's plane. */
  pixel(p: Vec3): [number, number];
}

export class Pane {
  readonly nv: Niivue;
  readonly gl = document.createElement("canvas");
  readonly over = document.createElement("canvas");
  /** The range the image was opened with. */
  initial: Range = { min: 0, max: 1 };
  range: Range = { min: 0, max: 1 };
  palette: Palette = GREY;
  /** Set by the viewer. */
  overlay: Overlay = "fill";
  /** How long the last draw took, in ms. */
  drawMs = 0;

  image!: ImageTexture;
  labels!: LabelTexture;
  /** The browser took the graphics context away. */
  onLost: () => void = () => undefined;
  private values: (z: number) => ArrayLike<number> = () => [];

  constructor(
    readonly name: PaneName,
    readonly title: string,
    readonly grid: Grid,
    readonly host: HTMLElement,
  ) {
    this.nv = new Niivue({
      logLevel: "error",
      interactive: false,
      dragAndDropEnabled: false,
      isSliceMM: false,
      isRadiologicalConvention: true,
      sliceType: SLICE_TYPE.AXIAL,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      isOrientationTextVisible: true,
      showAllOrientationMarkers: true,
      fontSizeScaling: 0.3,
      fontColor: [0.72, 0.76, 0.82, 1],
      crosshairWidth: 0, // drawn in hover.ts: NiiVue's is a solid, as wide as a part of a voxel
      backColor: [0.02, 0.024, 0.03, 1],
      loadingText: "",
    });
    host.replaceChildren(this.gl, this.over);
    this.gl.addEventListener("webglcontextlost", () => this.onLost());
    this.over.tabIndex = 0;
    this.over.setAttribute("role", "application");
    this.over.setAttribute("aria-label", `${title}: drawing area`);
  }

  /** Shows an image (NIfTI bytes on the session's grid) and, over it, the labels of the mask. */
  async load(bytes: ArrayBuffer, labels: Uint8Array): Promise<void> {
    await this.nv.attachToCanvas(this.gl, false);
    const [red, green, blue] = [0, 1, 2].map((c) => LABEL_COLOURS.map((rgb) => rgb[c as 0 | 1 | 2]));
    const lut = { R: red!, G: green!, B: blue!, A: [0, 255, 255], I: [0, 1, 2], labels: ["", "tumour", "oedema"] };
    this.nv.drawLut = cmapper.makeDrawLut(lut);
    const volume = await NVImage.loadFromUrl({ url: bytes, name: `${this.name}.nii` });
    withoutDraws(this.nv.gl, () => this.nv.addVolume(volume));
    if (volume.dimsRAS!.slice(1, 4).some((n, i) => n !== this.grid.shape[i as 0 | 1 | 2])) {
      throw new Error(`The ${this.title} image was not shown on the session's grid.`);
    }
    this.nv.createEmptyDrawing();
    this.nv.drawBitmap = labels; // shared: every pane shows the same mask
    this.image = new ImageTexture(this.nv, this.grid, () => this.picture());
    this.labels = new LabelTexture(this.nv, this.grid);
    const [slope, shift] = [volume.hdr!.scl_slope, volume.hdr!.scl_inter];
    const img = volume.img as Float32Array;
    const { plane } = this.grid;
    const scaled = slope !== 1 || shift !== 0 ? Float32Array.from(img, (v) => v * slope + shift) : img;
    this.initial = { min: volume.cal_min!, max: volume.cal_max! };
    this.range = { ...this.initial };
    this.show((z) => scaled.subarray(z * plane, (z + 1) * plane), GREY);
    this.labels.stale.mark(0, this.grid.shape[2]);
  }

  /** Sets where the shown values come from, one axial slice at a time. */
  show(values: (z: number) => ArrayLike<number>, palette: Palette): void {
    this.values = values;
    this.palette = palette;
    this.recolour();
  }

  setRange(range: Range): void {
    this.range = range;
    this.recolour();
  }

  recolour(): void {
    this.image.stale.mark(0, this.grid.shape[2]);
  }

  /** The shown value at a voxel. */
  value([x, y, z]: Vec3): number {
    return this.values(z)[x + this.grid.shape[0] * y]!;
  }

  /** Uploads what is stale among the slices that will be seen, then draws. */
  draw(cross: Vec3): void {
    const start = performance.now();
    const all = this.nv.opts.sliceType === SLICE_TYPE.MULTIPLANAR;
    const seen = all ? Array(this.grid.shape[2]).keys() : [cross[2]];
    const slices = [...seen];
    this.labels.flush(slices);
    this.image.flush(slices);
    this.nv.scene.crosshairPos = this.nv.vox2frac(cross);
    this.nv.drawScene();
    this.drawMs = performance.now() - start;
  }

  /** The 2D tiles of the last draw. */
  tiles(cross: Vec3): Tile[] {
    return this.nv.screenSlices.flatMap((slice, i) => {
      if (slice.axCorSag > SLICE_TYPE.SAGITTAL) return [];
      return [this.tile(i, slice.axCorSag, slice.leftTopWidthHeight, cross)];
    });
  }

  tileAt(px: number, py: number, cross: Vec3): Tile | null {
    const inside = (t: Tile) =>
      px >= t.rect.x && px < t.rect.x + t.rect.width && py >= t.rect.y && py < t.rect.y + t.rect.height;
    return this.tiles(cross).find(inside) ?? null;
  }

  axial(cross: Vec3): Tile | null {
    return this.tiles(cross).find((t) => t.plane.w === 2) ?? null;
  }

  /** Canvas pixel of a place in the page, such as a mouse event's. */
  at(event: { clientX: number; clientY: number }): [number, number] {
    const rect = this.over.getBoundingClientRect();
    const dpr = this.gl.width / rect.width;
    return [(event.clientX - rect.left) * dpr, (event.clientY - rect.top) * dpr];
  }

  dispose(): void {
    this.onLost = () => undefined;
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.host.replaceChildren();
  }

  private picture(): Picture {
    return { range: this.range, palette: this.palette, slice: this.values };
  }

  /** A tile's mapping, taken from NiiVue's own at three of its points (it is affine). */
  private tile(index: number, kind: number, [x, y, w, h]: number[], cross: Vec3): Tile {
    const [u, v, normal] = TILE_AXES[kind]!;
    const shape = this.grid.shape;
    const voxelOf = (fx: number, fy: number) => {
      const frac = this.nv.screenXY2TextureFrac(x! + fx * w!, y! + fy * h!, index, false);
      return [frac[u]! * shape[u] - 0.5, frac[v]! * shape[v] - 0.5] as const;
    };
    const [o, a, b] = [voxelOf(0.25, 0.25), voxelOf(0.75, 0.25), voxelOf(0.25, 0.75)];
    const slopeU = (a[0] - o[0]) / (0.5 * w!); // voxels per pixel; no shear between the screen and the grid
    const slopeV = (b[1] - o[1]) / (0.5 * h!);
    const [ox, oy] = [x! + 0.25 * w!, y! + 0.25 * h!];
    return {
      plane: { u, v, w: normal, at: cross[normal] },
      rect: { x: x!, y: y!, width: w!, height: h! },
      voxel: (px, py) => {
        const p = [...cross] as Vec3;
        p[u] = o[0] + slopeU * (px - ox);
        p[v] = o[1] + slopeV * (py - oy);
        return p;
      },
      pixel: (p) => [ox + (p[u] - o[0]) / slopeU, oy + (p[v] - o[1]) / slopeV],
    };
  }
}

/**
 * Adding a volume makes NiiVue draw it into its textures, slice by slice: the colours, and gradients for
 * a 3D rendering (8 s of a BraTS scan where WebGL is software). This page writes the colours itself
 * (texture.ts) and shows no rendering.
 */
function withoutDraws(gl: WebGL2RenderingContext, act: () => void): void {
  gl.drawArrays = () => undefined;
  try {
    act();
  } finally {
    Reflect.deleteProperty(gl, "drawArrays"); // the prototype's own again
  }
}
