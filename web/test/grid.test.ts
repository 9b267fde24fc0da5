import { describe, expect, it } from "vitest";

import { crop, difference, paste, union } from "../src/grid";
import { gridOf } from "./helpers";

describe("a grid", () => {
  const grid = gridOf();

  it("counts x fastest", () => {
    expect(grid.index(1, 2, 1)).toBe(1 + 5 * (2 + 4 * 1));
    expect(grid.size).toBe(60);
  });

  it("clamps and rounds positions to voxels", () => {
    expect(grid.clamp([-1, 1.6, 9])).toEqual([0, 2, 2]);
    expect(grid.contains([4, 3, 2])).toBe(true);
    expect(grid.contains([5, 0, 0])).toBe(false);
  });

  it("places voxels in the world by its affine", () => {
    expect(grid.world([1, 1, 1])).toEqual([-9, -18, -27]);
  });

  it("is another one where the affine moves", () => {
    expect(grid.same(gridOf())).toBe(true);
    expect(grid.same(gridOf([5, 4, 3], [1, 2, 3.01]))).toBe(false);
    expect(grid.same(gridOf([4, 5, 3]))).toBe(false);
  });
});

describe("boxes", () => {
  const grid = gridOf();

  it("unite to the smallest that holds both", () => {
    const a = { x: 1, y: 1, z: 0, nx: 1, ny: 2, nz: 1 };
    const b = { x: 3, y: 0, z: 2, nx: 2, ny: 1, nz: 1 };
    expect(union(a, b)).toEqual({ x: 1, y: 0, z: 0, nx: 4, ny: 3, nz: 3 });
    expect(union(null, a)).toBe(a);
    expect(union(a, null)).toBe(a);
  });

  it("are cut out and put back", () => {
    const data = Uint8Array.from({ length: grid.size }, (_, i) => i);
    const box = { x: 1, y: 2, z: 1, nx: 3, ny: 2, nz: 2 };
    const values = crop(data, grid, box);
    expect(values[0]).toBe(data[grid.index(1, 2, 1)]);
    expect(values[3]).toBe(data[grid.index(1, 3, 1)]);
    const other = new Uint8Array(grid.size);
    paste(other, grid, box, values);
    expect(difference(other, new Uint8Array(grid.size), grid, grid.whole)).toEqual(box);
  });

  it("of a difference are null where nothing differs", () => {
    const data = new Uint8Array(grid.size);
    expect(difference(data, data.slice(), grid, grid.whole)).toBeNull();
  });

  it("of a difference hold both of its ends", () => {
    const [a, b] = [new Uint8Array(grid.size), new Uint8Array(grid.size)];
    a[grid.index(4, 0, 0)] = 1;
    b[grid.index(0, 3, 2)] = 2;
    expect(difference(a, b, grid, grid.whole)).toEqual(grid.whole);
  });
});
