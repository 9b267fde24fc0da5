/** gzip, and the two things the page does with NIfTI bytes itself: read a label map, write a header. */

import { gzipSync } from "fflate";

import type { Labels } from "./api";
import type { Grid } from "./grid";

const HEADER = 352;
const UINT8 = 2;
const FLOAT32 = 16;

/**
 * Compresses at once: a stroke's box is small, and CompressionStream would give its answer only after
 * the frame that draws the stroke (100 ms where WebGL is software).
 */
export function gzip(data: Uint8Array): Uint8Array<ArrayBuffer> {
  return gzipSync(data, { level: 1, mtime: 0 }) as Uint8Array<ArrayBuffer>;
}

export function gunzip(data: ArrayBuffer): Promise<ArrayBuffer> {
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Checks that NIfTI bytes hold the session's grid: shape and sform. */
export function checkGrid(bytes: ArrayBuffer, grid: Grid, name: string): void {
  const view = new DataView(bytes);
  const shape = [0, 1, 2].map((i) => view.getInt16(42 + 2 * i, true));
  const sform = [0, 1, 2].map((r) => [0, 1, 2, 3].map((c) => view.getFloat32(280 + 16 * r + 4 * c, true)));
  const matches =
    view.getInt32(0, true) === 348 &&
    shape.every((n, i) => n === grid.shape[i as 0 | 1 | 2]) &&
    sform.every((row, r) => row.every((value, c) => Math.abs(value - grid.affine[r]![c]!) < 1e-3));
  if (!matches) throw new Error(`The server's ${name} does not lie on the session's grid (${shape.join(" x ")}).`);
}

/** The labels of a uint8 NIfTI on the grid, x fastest. */
export function labels(bytes: ArrayBuffer, grid: Grid): Uint8Array {
  checkGrid(bytes, grid, "prompt");
  const view = new DataView(bytes);
  const type = view.getInt16(70, true);
  if (type !== UINT8) throw new Error(`The server's prompt has data type ${type}, not uint8.`);
  return new Uint8Array(bytes, view.getFloat32(108, true), grid.size);
}

/** A NIfTI of zeros (float32) on the grid, its sform the grid's affine. */
export function blank(grid: Grid): ArrayBuffer {
  return empty(grid, FLOAT32, 4);
}

/**
 * A mask as a compressed NIfTI (uint8) on the grid, axes in RAS order.
 *
 * @param tumour, oedema the labels that the model knows them by
 */
export function maskFile(mask: Uint8Array, grid: Grid, { tumour, oedema }: Labels): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(empty(grid, UINT8, 1));
  const label = [0, tumour, oedema];
  mask.forEach((value, i) => (bytes[HEADER + i] = label[value]!));
  return gzip(bytes);
}

function empty(grid: Grid, type: number, size: number): ArrayBuffer {
  const bytes = new ArrayBuffer(HEADER + size * grid.size);
  const view = new DataView(bytes);
  view.setInt32(0, 348, true);
  [3, ...grid.shape, 1, 1, 1, 1].forEach((n, i) => view.setInt16(40 + 2 * i, n, true));
  view.setInt16(70, type, true);
  view.setInt16(72, 8 * size, true);
  [1, ...grid.spacing_mm].forEach((mm, i) => view.setFloat32(76 + 4 * i, mm, true));
  view.setFloat32(108, HEADER, true);
  view.setFloat32(112, 1, true); // scl_slope
  view.setUint8(123, 2); // millimetres
  view.setFloat32(124, 1, true); // cal_max, so that no reader looks for a range
  view.setInt16(254, 1, true); // sform_code: scanner
  grid.affine.slice(0, 3).forEach((row, r) => {
    row.forEach((value, c) => view.setFloat32(280 + 16 * r + 4 * c, value, true));
  });
  [0x6e, 0x2b, 0x31, 0].forEach((byte, i) => view.setUint8(344 + i, byte)); // "n+1"
  return bytes;
}
