import { Grid, type Plane, type Vec3 } from "../src/grid";

/** A grid of unequal sides and voxels, so that a mixed-up axis is seen. */
export function gridOf(shape: Vec3 = [5, 4, 3], spacing: Vec3 = [1, 2, 3]): Grid {
  const [dx, dy, dz] = spacing;
  const affine = [
    [dx, 0, 0, -10],
    [0, dy, 0, -20],
    [0, 0, dz, -30],
    [0, 0, 0, 1],
  ];
  return new Grid(shape, affine, spacing);
}

export const AXIAL = (at: number): Plane => ({ u: 0, v: 1, w: 2, at });

/** A stream of these chunks. */
export function streamOf(...chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      chunks.forEach((chunk) => controller.enqueue(chunk));
      controller.close();
    },
  });
}

/** One frame as the server writes it. */
export function frameOf(header: Record<string, unknown>, values = new Float32Array(0)): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify({ bytes: values.byteLength, ...header }));
  const out = new Uint8Array(4 + text.length + values.byteLength);
  new DataView(out.buffer).setUint32(0, text.length, true);
  out.set(text, 4);
  out.set(new Uint8Array(values.buffer), 4 + text.length);
  return out;
}
