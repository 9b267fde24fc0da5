import { describe, expect, it } from "vitest";

import { Brightness } from "../src/brightness";
import { gridOf } from "./helpers";

describe("brightness", () => {
  const grid = gridOf([10, 10, 2], [1, 1, 1]);

  it("is unknown before anything has come", () => {
    const brightness = new Brightness(new Float32Array(grid.size), grid);
    brightness.update([0, 1]);
    expect(brightness.level()).toBeNull();
  });

  it("is what most of the brain stays below, whatever the background and one vessel are", () => {
    const values = new Float32Array(grid.size);
    values.fill(0.3, 20, 190);
    values[0] = 1;
    const brightness = new Brightness(values, grid);
    brightness.update([0, 1]);
    expect(brightness.level()).toBeCloseTo(0.3, 2);
  });

  it("forgets what a slice was when it comes again", () => {
    const values = new Float32Array(grid.size).fill(0.00001);
    const brightness = new Brightness(values, grid);
    brightness.update([0, 1]);
    expect(brightness.level()).toBeLessThan(0.01);
    values.fill(0.5);
    brightness.update([0, 1]);
    expect(brightness.level()).toBeCloseTo(0.5, 2);
  });
});
