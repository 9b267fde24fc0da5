import { describe, expect, it } from "vitest";

import { History, Mask } from "../src/mask";
import { gridOf } from "./helpers";

describe("a mask", () => {
  it("ends a stroke with the box it changed, before and after", () => {
    const mask = new Mask(gridOf());
    mask.put(1, 1, 1, 1);
    mask.put(2, 1, 1, 2);
    mask.put(9, 9, 9, 1); // outside
    const change = mask.commit()!;
    expect(change.box).toEqual({ x: 1, y: 1, z: 1, nx: 2, ny: 1, nz: 1 });
    expect([...change.before]).toEqual([0, 0]);
    expect([...change.after]).toEqual([1, 2]);
    expect(mask.commit()).toBeNull();
  });

  it("changes nothing by a stroke that comes back to what was there", () => {
    const mask = new Mask(gridOf());
    mask.put(1, 1, 1, 1);
    mask.put(1, 1, 1, 0);
    expect(mask.commit()).toBeNull();
  });

  it("takes a stroke under way back", () => {
    const mask = new Mask(gridOf());
    mask.put(1, 1, 1, 1);
    mask.commit();
    mask.put(2, 2, 2, 2);
    mask.abandon();
    expect(mask.data.filter((label) => label > 0).length).toBe(1);
    expect(mask.commit()).toBeNull();
  });
});

describe("the history", () => {
  it("undoes and does again, to the bit", () => {
    const [mask, history] = [new Mask(gridOf()), new History()];
    const states = [mask.data.slice()];
    for (const x of [0, 1, 2]) {
      mask.put(x, 0, 0, 1);
      history.push(mask.commit()!);
      states.push(mask.data.slice());
    }
    for (const state of states.slice(0, -1).reverse()) {
      history.undo(mask);
      expect(mask.data).toEqual(state);
    }
    expect(history.undo(mask)).toBeNull();
    for (const state of states.slice(1)) {
      history.redo(mask);
      expect(mask.data).toEqual(state);
    }
  });

  it("forgets what was undone at the next change, and the oldest beyond its limits", () => {
    const [mask, history] = [new Mask(gridOf()), new History(2)];
    for (const x of [0, 1, 2]) {
      mask.put(x, 0, 0, 1);
      history.push(mask.commit()!);
    }
    history.undo(mask);
    expect(history.canRedo).toBe(true);
    mask.put(4, 3, 2, 1);
    history.push(mask.commit()!);
    expect(history.canRedo).toBe(false);
    expect(history.undo(mask)).not.toBeNull();
    expect(history.undo(mask)).not.toBeNull();
    expect(history.undo(mask)).toBeNull(); // the first of four was dropped
    expect(mask.data[0]).toBe(1);
  });
});
