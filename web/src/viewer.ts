/** The panes together: one crosshair, one zoom, one slice; draws what changed, once a frame. */

import { SLICE_TYPE } from "@niivue/niivue";

import type { Box, Grid, Vec3 } from "./grid";
import { type Overlay, Pane, type PaneName } from "./pane";

/** Above this a pane is slow (software rendering): a stroke under way is drawn in its own pane only. */
const SLOW_MS = 12;
/** At most one redraw in this time for slices that come in, in the multiplanar view. */
const COALESCE_MS = 250;

export interface ViewOptions {
  multiplanar: boolean;
  radiological: boolean;
  crosshair: boolean;
  /** Of filled overlays. */
  opacity: number;
}

/** Where the image lies (NiiVue's pan, in mm at zoom 1) and how large. */
export interface Placing {
  pan: Vec3;
  zoom: number;
}

export class Viewer {
  readonly panes = new Map<PaneName, Pane>();
  readonly view: ViewOptions = {
    multiplanar: false,
    radiological: true,
    crosshair: true,
    opacity: 0.5,
  };
  cross: Vec3;
  active: Pane | null = null;
  onMove: () => void = () => undefined;
  /** Called after each frame in which something was drawn. */
  onDraw: (panes: ReadonlySet<Pane>) => void = () => undefined;

  private readonly wanted = new Set<Pane>();
  private frame = 0;
  private lateTimer = 0;
  private waiting: (() => void)[] = [];

  constructor(
    readonly grid: Grid,
    first: number,
  ) {
    const [nx, ny] = grid.shape;
    this.cross = grid.clamp([(nx - 1) / 2, (ny - 1) / 2, first]);
  }

  /** A draw is still to come. */
  get pending(): boolean {
    return this.frame !== 0 || this.lateTimer !== 0;
  }

  add(pane: Pane): void {
    this.panes.set(pane.name, pane);
    this.active ??= pane;
    new ResizeObserver(() => this.draw(pane)).observe(pane.host);
  }

  /** Draws panes (all by default) in the next frame. */
  draw(...panes: Pane[]): void {
    for (const pane of panes.length > 0 ? panes : this.panes.values()) this.wanted.add(pane);
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.drawWanted());
  }

  /** Resolves when everything asked for so far is drawn. */
  drawn(): Promise<void> {
    if (this.frame === 0) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  moveTo(p: Vec3): void {
    this.cross = this.grid.clamp(p);
    this.draw();
    this.onMove();
  }

  moveBy(dx: number, dy: number, dz: number): void {
    this.moveTo([this.cross[0] + dx, this.cross[1] + dy, this.cross[2] + dz]);
  }

  /** The mask changed inside a box; `own` is the pane in which a stroke is still under way. */
  maskChanged(box: Box, own: Pane | null = null): void {
    for (const pane of this.panes.values()) {
      pane.labels.stale.mark(box.z, box.nz);
      if (!own || pane === own || pane.drawMs < SLOW_MS) this.draw(pane);
    }
  }

  /** Values of a pane changed in some slices; resolves when the change, if it can be seen, is painted. */
  valuesChanged(pane: Pane, slices: readonly number[]): Promise<void> {
    for (const z of slices) pane.image.stale.mark(z, 1);
    if (slices.includes(this.cross[2])) {
      this.draw(pane);
      return this.drawn();
    }
    if (this.view.multiplanar && this.lateTimer === 0) {
      this.lateTimer = window.setTimeout(() => {
        this.lateTimer = 0;
        this.draw(pane);
      }, COALESCE_MS);
    }
    return Promise.resolve();
  }

  setView(change: Partial<ViewOptions>): void {
    Object.assign(this.view, change);
    for (const { nv } of this.panes.values()) {
      nv.opts.sliceType = this.view.multiplanar ? SLICE_TYPE.MULTIPLANAR : SLICE_TYPE.AXIAL;
      nv.opts.isRadiologicalConvention = this.view.radiological;
    }
    for (const pane of this.panes.values()) this.showOverlay(pane);
    this.draw();
    this.onMove();
  }

  /** Sets how a pane shows the mask. */
  setOverlay(pane: Pane, overlay: Overlay): void {
    pane.overlay = overlay;
    this.showOverlay(pane);
    this.draw(pane);
  }

  private showOverlay({ nv, overlay }: Pane): void {
    nv.drawOpacity = { fill: this.view.opacity, outline: 0.001, none: 0 }[overlay];
    nv.drawRimOpacity = overlay === "outline" ? 1 : -1;
  }

  get zoom(): number {
    return [...this.panes.values()][0]?.nv.scene.pan2Dxyzmm[3] ?? 1;
  }

  /** Zooms so that a voxel stays where it is on the screen; factor 0 shows the whole image again. */
  zoomBy(factor: number, about: Vec3 = this.cross): void {
    const zoom = factor === 0 ? 1 : Math.min(Math.max(this.zoom * factor, 1), 16);
    const [first] = this.panes.values();
    if (!first) return;
    const mm = first.nv.frac2mm(first.nv.vox2frac(about));
    const old = first.nv.scene.pan2Dxyzmm;
    const pan = zoom === 1 ? [0, 0, 0] : [0, 1, 2].map((i) => old[i]! + mm[i]! * (old[3]! - zoom));
    this.setPan(pan as Vec3, zoom);
  }

  /** How the image lies on the screen now. */
  get placing(): Placing {
    const [x, y, z, zoom] = [...this.panes.values()][0]!.nv.scene.pan2Dxyzmm;
    return { pan: [x!, y!, z!], zoom: zoom! };
  }

  /**
   * Zooms and moves the image from how it lay so that what was at voxel `from` comes to lie where voxel
   * `to` was then.
   */
  place({ pan, zoom }: Placing, from: Vec3, to: Vec3, factor: number): void {
    const [first] = this.panes.values();
    if (!first) return;
    const { nv } = first;
    const [a, b] = [from, to].map((p) => nv.frac2mm(nv.vox2frac(p)));
    const now = Math.min(Math.max(zoom * factor, 1), 16);
    this.setPan([0, 1, 2].map((i) => pan[i]! + zoom * b![i]! - now * a![i]!) as Vec3, now);
  }

  /** Moves the image so that what lay at voxel `from` comes to lie where voxel `to` is shown now. */
  panBy(from: Vec3, to: Vec3): void {
    const [first] = this.panes.values();
    if (!first) return;
    const { nv } = first;
    const [a, b] = [from, to].map((p) => nv.frac2mm(nv.vox2frac(p)));
    const old = nv.scene.pan2Dxyzmm;
    this.setPan([0, 1, 2].map((i) => old[i]! + old[3]! * (b![i]! - a![i]!)) as Vec3, old[3]!);
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.lateTimer);
    for (const pane of this.panes.values()) pane.dispose();
    this.panes.clear();
  }

  private setPan(pan: Vec3, zoom: number): void {
    for (const { nv } of this.panes.values()) nv.scene.pan2Dxyzmm = [...pan, zoom];
    this.draw();
  }

  private drawWanted(): void {
    this.frame = 0;
    const now = new Set(this.wanted);
    this.wanted.clear();
    for (const pane of now) pane.draw(this.cross);
    this.onDraw(now);
    const resolve = this.waiting;
    this.waiting = [];
    // a task of its own runs after the browser has taken the frame
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve.forEach((done) => done());
    };
    channel.port2.postMessage(null);
  }
}
