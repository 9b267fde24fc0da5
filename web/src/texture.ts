/**
 * NiiVue's 3D textures, written slice by slice and only when a slice is about to be seen.
 *
 * `updateGLVolume` and `refreshDrawing` upload the whole volume (36 MB and 9 MB of a BraTS scan) for
 * one changed slice. Both textures are plain: RGBA8 with the colours already applied (unit 0), and R8
 * labels (unit 7). NiiVue binds all its textures again at each drawScene, so writing between two is safe.
 */

import type { Niivue } from "@niivue/niivue";

import type { Grid } from "./grid";

/** Slices of one texture that are out of date. */
class Stale {
  private readonly flags: Uint8Array;

  constructor(slices: number) {
    this.flags = new Uint8Array(slices);
  }

  mark(from: number, count: number): void {
    this.flags.fill(1, from, from + count);
  }

  has(z: number): boolean {
    return this.flags[z] === 1;
  }

  get any(): boolean {
    return this.flags.includes(1);
  }

  take(z: number): boolean {
    const was = this.flags[z] === 1;
    this.flags[z] = 0;
    return was;
  }
}

abstract class SliceTexture {
  readonly stale: Stale;

  constructor(
    protected readonly nv: Niivue,
    protected readonly grid: Grid,
  ) {
    this.stale = new Stale(grid.shape[2]);
  }

  /** Uploads the stale ones of some slices. */
  flush(slices: Iterable<number>): void {
    for (const z of slices) if (this.stale.take(z)) this.write(z);
  }

  protected abstract write(z: number): void;

  protected upload(texture: WebGLTexture | null, unit: number, z: number, format: number, data: Uint8Array): void {
    const { gl } = this.nv;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_3D, texture);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, false);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const [nx, ny] = this.grid.shape;
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, z, nx, ny, 1, format, gl.UNSIGNED_BYTE, data);
  }
}

/** The labels of the mask, over the image. */
export class LabelTexture extends SliceTexture {
  protected override write(z: number): void {
    const { plane } = this.grid;
    const slice = this.nv.drawBitmap!.subarray(z * plane, (z + 1) * plane);
    this.upload(this.nv.drawTexture, 7, z, this.nv.gl.RED, slice);
  }
}

/** Colours of a value range: 256 steps from `min` to `max`, as 32-bit RGBA (little-endian). */
export type Palette = Uint32Array;

export interface Range {
  min: number;
  max: number;
}

/** What an image texture shows. */
export interface Picture {
  range: Range;
  palette: Palette;
  /** The values of one axial slice, x fastest. */
  slice(z: number): ArrayLike<number>;
}

export class ImageTexture extends SliceTexture {
  private readonly colours: Uint32Array;

  constructor(
    nv: Niivue,
    grid: Grid,
    private readonly picture: () => Picture,
  ) {
    super(nv, grid);
    this.colours = new Uint32Array(grid.plane);
  }

  protected override write(z: number): void {
    const { range, palette, slice } = this.picture();
    const values = slice(z);
    const scale = 256 / Math.max(range.max - range.min, 1e-12);
    for (let i = 0; i < this.colours.length; i++) {
      const step = (values[i]! - range.min) * scale;
      this.colours[i] = palette[step >= 255 ? 255 : step > 0 ? step | 0 : 0]!;
    }
    this.upload(this.nv.volumeTexture, 0, z, this.nv.gl.RGBA, new Uint8Array(this.colours.buffer));
  }
}

function palette(colour: (t: number) => [number, number, number]): Palette {
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const [r, g, b] = colour(i / 255).map((c) => Math.round(255 * Math.min(Math.max(c, 0), 1))) as [
      number,
      number,
      number,
    ];
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

export const GREY = palette((t) => [t, t, t]);

/** Diverging: blue below the middle, black at it, orange above. The legend in style.css has the same ends. */
export const DIVERGING = palette((t) => {
  const d = Math.abs(2 * t - 1) ** 0.8;
  return t < 0.5 ? [0.25 * d, 0.62 * d, 1 * d] : [1 * d, 0.55 * d, 0.16 * d];
});
