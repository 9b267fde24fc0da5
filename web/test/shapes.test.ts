import { describe, expect, it } from "vitest";

import type { Vec3 } from "../src/grid";
import { Mask } from "../src/mask";
import { ball, block, disc, flood, line, polygon } from "../src/shapes";
import { AXIAL, gridOf } from "./helpers";

const count = (mask: Mask, label: number) => mask.data.filter((one) => one === label).length;

describe("shapes are measured in mm", () => {
  it("a disc on voxels of 1 x 2 mm is twice as wide as high, in voxels", () => {
    const mask = new Mask(gridOf([21, 21, 1], [1, 2, 3]));
    disc(mask, AXIAL(0), [10, 10], 8, 1);
    expect(count(mask, 1)).toBe(9 + 2 * 7 + 2 * 1); // rows at 0, 2 and 4 mm from the centre
  });

  it("a disc smaller than a voxel is that voxel", () => {
    const mask = new Mask(gridOf());
    disc(mask, AXIAL(1), [2, 2], 0.1, 2);
    expect(count(mask, 2)).toBe(1);
  });

  it("a line leaves no gap", () => {
    const mask = new Mask(gridOf([30, 30, 1], [1, 1, 1]));
    line(mask, AXIAL(0), [2, 3], [27, 20], 1, 1);
    for (let x = 2; x <= 27; x++) {
      expect(Array.from({ length: 30 }, (_, y) => mask.data[x + 30 * y]).includes(1)).toBe(true);
    }
  });

  it("a ball is as deep as it is wide", () => {
    const grid = gridOf([21, 21, 21], [1, 1, 3]);
    const mask = new Mask(grid);
    ball(mask, [10, 10, 10], 6, 1);
    const at = (p: Vec3) => mask.data[grid.index(...p)];
    expect(at([16, 10, 10])).toBe(1);
    expect(at([17, 10, 10])).toBe(0);
    expect(at([10, 10, 12])).toBe(1);
    expect(at([10, 10, 13])).toBe(0);
  });

  it("a block goes through the slices within half its depth", () => {
    const mask = new Mask(gridOf([9, 9, 9], [1, 1, 2]));
    block(mask, AXIAL(4), [1, 1], [2, 3], 5, 1);
    expect(count(mask, 1)).toBe(2 * 3 * 3);
  });

  it("a polygon is filled inside, also where it crosses itself", () => {
    const mask = new Mask(gridOf([20, 20, 1], [1, 1, 1]));
    polygon(mask, AXIAL(0), [[2, 2], [12, 2], [12, 12], [2, 12]], 1); // prettier-ignore
    expect(count(mask, 1)).toBeGreaterThanOrEqual(100);
    expect(mask.data[7 + 20 * 7]).toBe(1);
    expect(mask.data[15 + 20 * 15]).toBe(0);
  });
});

describe("a fill", () => {
  const grid = gridOf([41, 41, 1], [1, 1, 1]);
  const all = () => true;

  it("stops at its reach", () => {
    const mask = new Mask(grid);
    flood(mask, AXIAL(0), () => 1, [20, 20], { tolerance: 1, reach_mm: 5, may: all }, 1);
    expect(mask.data[25 + 41 * 20]).toBe(1);
    expect(mask.data[26 + 41 * 20]).toBe(0);
    expect(count(mask, 1)).toBe(81);
  });

  it("measures its reach in mm along each axis", () => {
    const mask = new Mask(gridOf([41, 41, 1], [1, 2, 1]));
    flood(mask, AXIAL(0), () => 1, [20, 20], { tolerance: 1, reach_mm: 4, may: all }, 1);
    expect(mask.data[24 + 41 * 20]).toBe(1);
    expect(mask.data[20 + 41 * 22]).toBe(1);
    expect(mask.data[20 + 41 * 23]).toBe(0);
  });

  it("takes what looks alike and hangs together", () => {
    const mask = new Mask(grid);
    const value = ([x]: Vec3) => (x === 10 ? 9 : 1);
    flood(mask, AXIAL(0), value, [20, 20], { tolerance: 0.5, reach_mm: 100, may: all }, 1);
    expect(count(mask, 1)).toBe(30 * 41);
  });

  it("leaves the other class, and goes on behind it", () => {
    const mask = new Mask(grid);
    for (let y = 0; y < 41; y++) mask.put(22, y, 0, 2);
    const may = (label: number) => label !== 2;
    flood(mask, AXIAL(0), () => 1, [20, 20], { tolerance: 1, reach_mm: 5, may }, 1);
    expect(count(mask, 2)).toBe(41);
    expect(mask.data[24 + 41 * 20]).toBe(1);
  });
});
