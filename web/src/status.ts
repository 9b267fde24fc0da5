/** The status line: where the crosshair is, what is still to run, and where the last stroke's time went. */

import type { Session, Status } from "./api";
import { byId } from "./dom";
import type { Vec3 } from "./grid";
import type { Loop } from "./loop";
import type { Timing } from "./timing";

export function showPosition(cross: Vec3, world: Vec3, slices: number): void {
  const mm = world.map((c) => (Object.is(Math.round(10 * c), -0) ? 0 : c).toFixed(1));
  byId("position").textContent =
    `Slice ${cross[2] + 1} of ${slices}   ·   voxel ${cross.join(", ")}   ·   R ${mm[0]}  A ${mm[1]}  S ${mm[2]} mm`;
  byId("slice-text").textContent = `${cross[2] + 1} / ${slices}`;
}

export function showProgress(loop: Loop): void {
  const text = {
    live: loop.left > 0 ? `Synthesis: ${loop.left} ${loop.left === 1 ? "slice" : "slices"} left` : "Synthesis up to date",
    offline: "Offline: what you draw is kept",
    failed: "Stopped",
  }[loop.phase];
  const sending = loop.phase === "live" && loop.left === 0 && loop.busy;
  const element = byId("progress");
  const now = sending ? "Synthesis: waiting" : text;
  if (element.textContent !== now) element.textContent = now;
  element.dataset["state"] = loop.busy ? "busy" : loop.phase;
}

export function showDevice(status: Status, session: Session): void {
  const { name, device, library } = session.engine;
  byId("device").textContent = `${status.model.name}   ·   ${name} on ${device}   ·   ${library}`;
  byId("engine").textContent = "";
}

export function showTiming(timing: Timing | null): void {
  const element = byId("timing");
  if (!timing) {
    element.textContent = "Stroke to updated slice: draw to measure";
    return;
  }
  const ms = (value: number) => `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)}`;
  const parts = [
    ["page", timing.page],
    ["network", timing.network],
    ["queue", timing.queue],
    ["engine", timing.engine],
    ["server rest", timing.server],
    ["paint", timing.paint],
  ] as const;
  const split = parts.map(([name, value]) => `${name} ${ms(value)}`).join("  ·  ");
  element.textContent = `Stroke to updated slice ${ms(timing.total)} ms   =   ${split}`;
}
