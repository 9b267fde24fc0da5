/** The shapes that tools write into a mask. Positions are voxel indices, a voxel's centre at its integer. */

import type { Axis, Grid, Plane, Vec3 } from "./grid";
import type { Label, Mask } from "./mask";

export type Point = [number, number];

function at(plane: Plane, u: number, v: number, w = plane.at): Vec3 {
  const p: Vec3 = [0, 0, 0];
  p[plane.u] = u;
  p[plane.v] = v;
  p[plane.w] = w;
  return p;
}

function put(mask: Mask, plane: Plane, u: number, v: number, label: Label, w = plane.at): void {
  mask.put(...at(plane, u, v, w), label);
}

/** Voxels of the plane whose centres lie within `diameter_mm` / 2 of voxel (u, v); at least that voxel. */
export function disc(mask: Mask, plane: Plane, [u, v]: Point, diameter_mm: number, label: Label): void {
  const [du, dv] = [mask.grid.spacing_mm[plane.u], mask.grid.spacing_mm[plane.v]];
  const radius = diameter_mm / 2;
  const [ru, rv] = [Math.floor(radius / du), Math.floor(radius / dv)];
  for (let b = -rv; b <= rv; b++) {
    for (let a = -ru; a <= ru; a++) {
      if ((a * du) ** 2 + (b * dv) ** 2 <= radius ** 2) put(mask, plane, u + a, v + b, label);
    }
  }
  put(mask, plane, u, v, label);
}

/** Discs along a line from one voxel to another, one per voxel passed. */
export function line(mask: Mask, plane: Plane, from: Point, to: Point, diameter_mm: number, label: Label): void {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let i = 0; i <= steps; i++) {
    const t = i / steps;
    const centre: Point = [
      Math.round(from[0] + t * (to[0] - from[0])),
      Math.round(from[1] + t * (to[1] - from[1])),
    ];
    disc(mask, plane, centre, diameter_mm, label);
  }
}

/** Voxels of the plane whose centres lie inside a closed outline, by the non-zero winding rule. */
export function polygon(mask: Mask, plane: Plane, outline: readonly Point[], label: Label): void {
  const last = mask.grid.shape[plane.v] - 1;
  const vs = outline.map((p) => p[1]);
  const top = Math.min(Math.floor(Math.max(...vs)), last);
  for (let v = Math.max(Math.ceil(Math.min(...vs)), 0); v <= top; v++) {
    const crossings = outline.flatMap((a, i) => {
      const b = outline[(i + 1) % outline.length]!;
      if (a[1] <= v === b[1] <= v) return [];
      const u = a[0] + ((v - a[1]) / (b[1] - a[1])) * (b[0] - a[0]);
      return [{ u, turn: a[1] <= v ? 1 : -1 }];
    });
    crossings.sort((a, b) => a.u - b.u);
    let winding = 0;
    for (let i = 0; i + 1 < crossings.length; i++) {
      winding += crossings[i]!.turn;
      if (winding === 0) continue;
      const end = Math.min(Math.floor(crossings[i + 1]!.u), mask.grid.shape[plane.u] - 1);
      for (let u = Math.max(Math.ceil(crossings[i]!.u), 0); u <= end; u++) put(mask, plane, u, v, label);
    }
  }
}

/** How far a flood goes. */
export interface FloodLimits {
  /** Largest difference from the seed's value. */
  tolerance: number;
  /** Largest distance of a voxel's centre from the seed's. */
  reach_mm: number;
  /** Whether a voxel of this label may be changed; the flood goes on past one that may not. */
  may: (label: number) => boolean;
}

/**
 * The region of the plane that hangs together with a seed (4 neighbours) and whose values lie near the
 * seed's.
 *
 * @param value the shown image's value at a voxel
 */
export function flood(
  mask: Mask,
  plane: Plane,
  value: (p: Vec3) => number,
  seed: Point,
  { tolerance, reach_mm, may }: FloodLimits,
  label: Label,
): void {
  const [du, dv] = [mask.grid.spacing_mm[plane.u], mask.grid.spacing_mm[plane.v]];
  const [nu, nv] = [mask.grid.shape[plane.u], mask.grid.shape[plane.v]];
  const reference = value(at(plane, ...seed));
  const seen = new Uint8Array(nu * nv);
  const stack: Point[] = [seed];
  while (stack.length > 0) {
    const [u, v] = stack.pop()!;
    if (u < 0 || v < 0 || u >= nu || v >= nv || seen[u + nu * v]) continue;
    seen[u + nu * v] = 1;
    if (((u - seed[0]) * du) ** 2 + ((v - seed[1]) * dv) ** 2 > reach_mm ** 2) continue;
    const here = at(plane, u, v);
    if (!(Math.abs(value(here) - reference) <= tolerance)) continue;
    if (may(mask.data[mask.grid.index(...here)]!)) put(mask, plane, u, v, label);
    stack.push([u + 1, v], [u - 1, v], [u, v + 1], [u, v - 1]);
  }
}

/** A rectangle between two voxels of the plane, through every slice whose centre is within `depth_mm` / 2. */
export function block(mask: Mask, plane: Plane, a: Point, b: Point, depth_mm: number, label: Label): void {
  const reach = Math.floor(depth_mm / 2 / mask.grid.spacing_mm[plane.w] + 1e-6);
  for (let w = plane.at - reach; w <= plane.at + reach; w++) {
    for (let v = Math.min(a[1], b[1]); v <= Math.max(a[1], b[1]); v++) {
      for (let u = Math.min(a[0], b[0]); u <= Math.max(a[0], b[0]); u++) put(mask, plane, u, v, label, w);
    }
  }
}

/** Voxels whose centres lie within `radius_mm` of a voxel's centre. */
export function ball(mask: Mask, centre: Vec3, radius_mm: number, label: Label): void {
  const grid: Grid = mask.grid;
  const reach = (axis: Axis) => Math.floor(radius_mm / grid.spacing_mm[axis]);
  const [dx, dy, dz] = grid.spacing_mm;
  for (let c = -reach(2); c <= reach(2); c++) {
    for (let b = -reach(1); b <= reach(1); b++) {
      for (let a = -reach(0); a <= reach(0); a++) {
        if ((a * dx) ** 2 + (b * dy) ** 2 + (c * dz) ** 2 > radius_mm ** 2) continue;
        mask.put(centre[0] + a, centre[1] + b, centre[2] + c, label);
      }
    }
  }
}
