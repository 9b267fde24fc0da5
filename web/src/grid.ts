/** The one voxel grid of a session: RAS order, x fastest, as the server serves it. */

export type Vec3 = [number, number, number];
export type Axis = 0 | 1 | 2;

/** A block of voxels: first voxel and extent, both in voxels. */
export interface Box {
  x: number;
  y: number;
  z: number;
  nx: number;
  ny: number;
  nz: number;
}

/** A plane of the grid: `u` runs across the screen, `v` up it, `w` is constant at `at`. */
export interface Plane {
  u: Axis;
  v: Axis;
  w: Axis;
  at: number;
}

/** Axes of the axial, coronal and sagittal tile, in the order of NiiVue's SLICE_TYPE. */
export const TILE_AXES: readonly [Axis, Axis, Axis][] = [
  [0, 1, 2],
  [0, 2, 1],
  [1, 2, 0],
];

export class Grid {
  readonly size: number;
  readonly plane: number;

  /**
   * @param shape voxels along x, y, z
   * @param affine 4 x 4, voxel index to RAS mm
   * @param spacing_mm voxel size along x, y, z
   */
  constructor(
    readonly shape: Vec3,
    readonly affine: number[][],
    readonly spacing_mm: Vec3,
  ) {
    this.plane = shape[0] * shape[1];
    this.size = this.plane * shape[2];
  }

  index(x: number, y: number, z: number): number {
    return x + this.shape[0] * (y + this.shape[1] * z);
  }

  contains(p: Vec3): boolean {
    return p.every((c, axis) => c >= 0 && c < this.shape[axis as Axis]);
  }

  clamp(p: Vec3): Vec3 {
    return p.map((c, axis) => Math.min(Math.max(Math.round(c), 0), this.shape[axis as Axis] - 1)) as Vec3;
  }

  /** RAS coordinates in mm of a voxel's centre. */
  world(p: Vec3): Vec3 {
    return [0, 1, 2].map((r) => {
      const row = this.affine[r]!;
      return row[0]! * p[0] + row[1]! * p[1] + row[2]! * p[2] + row[3]!;
    }) as Vec3;
  }

  get whole(): Box {
    const [nx, ny, nz] = this.shape;
    return { x: 0, y: 0, z: 0, nx, ny, nz };
  }

  same(other: Grid): boolean {
    const close = (a: number, b: number) => Math.abs(a - b) < 1e-3;
    return (
      this.shape.every((n, i) => n === other.shape[i as Axis]) &&
      this.affine.every((row, r) => row.every((value, c) => close(value, other.affine[r]![c]!)))
    );
  }
}

/** The smallest box holding both; null is empty. */
export function union(a: Box | null, b: Box | null): Box | null {
  if (!a) return b;
  if (!b) return a;
  const x = Math.min(a.x, b.x);
  const y = Math.min(a.y, b.y);
  const z = Math.min(a.z, b.z);
  return {
    x,
    y,
    z,
    nx: Math.max(a.x + a.nx, b.x + b.nx) - x,
    ny: Math.max(a.y + a.ny, b.y + b.ny) - y,
    nz: Math.max(a.z + a.nz, b.z + b.nz) - z,
  };
}

/** The values of a box, x fastest. */
export function crop(data: Uint8Array, grid: Grid, box: Box): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(box.nx * box.ny * box.nz);
  let at = 0;
  for (let z = box.z; z < box.z + box.nz; z++) {
    for (let y = box.y; y < box.y + box.ny; y++, at += box.nx) {
      const from = grid.index(box.x, y, z);
      out.set(data.subarray(from, from + box.nx), at);
    }
  }
  return out;
}

/** Writes the values of a box, x fastest. */
export function paste(data: Uint8Array, grid: Grid, box: Box, values: Uint8Array): void {
  let at = 0;
  for (let z = box.z; z < box.z + box.nz; z++) {
    for (let y = box.y; y < box.y + box.ny; y++, at += box.nx) {
      data.set(values.subarray(at, at + box.nx), grid.index(box.x, y, z));
    }
  }
}

/** The smallest box inside `within` that holds every voxel in which a and b differ; null where none does. */
export function difference(a: Uint8Array, b: Uint8Array, grid: Grid, within: Box): Box | null {
  let [x0, x1, y0, y1, z0, z1] = [Infinity, -1, Infinity, -1, Infinity, -1];
  for (let z = within.z; z < within.z + within.nz; z++) {
    for (let y = within.y; y < within.y + within.ny; y++) {
      const row = grid.index(0, y, z);
      let first = within.x;
      const end = within.x + within.nx;
      while (first < end && a[row + first] === b[row + first]) first++;
      if (first === end) continue;
      let last = end - 1;
      while (a[row + last] === b[row + last]) last--;
      x0 = Math.min(x0, first);
      x1 = Math.max(x1, last);
      y0 = Math.min(y0, y);
      y1 = Math.max(y1, y);
      z0 = Math.min(z0, z);
      z1 = Math.max(z1, z);
    }
  }
  if (x1 < 0) return null;
  return { x: x0, y: y0, z: z0, nx: x1 - x0 + 1, ny: y1 - y0 + 1, nz: z1 - z0 + 1 };
}
