/** One open case: session, panes, tools and loop, from opening to closing. */

import { type Api, type FileName, gridOf, Refused, type ResultName, Unreachable } from "./api";
import { type Session, type Source, type Status } from "./api";
import { type Actions } from "./commands";
import { Display, type Shown } from "./display";
import { byId, download, messageOf } from "./dom";
import { Editor } from "./editor";
import { EvidenceView } from "./evidence";
import { PaneFrame } from "./frame";
import type { Grid } from "./grid";
import { type Left, packed, type Setup, unpacked } from "./left";
import { Loop } from "./loop";
import { Mask } from "./mask";
import { blank, checkGrid, gunzip, labels, maskFile } from "./nifti";
import { type Overlay, OVERLAYS, type Pane } from "./pane";
import { resize, showPanel } from "./panel";
import { Pointer } from "./pointer";
import { showDevice, showPosition, showProgress, showTiming } from "./status";
import { Tools } from "./tools";
import { Viewer } from "./viewer";

/** What files that are kept are called, after the case's name. */
const FILES: Record<FileName, string> = {
  prompt: "prompt",
  synthesis: "synth-t1ce",
  plain: "synth-t1ce_no-prompt",
};

export interface CaseHost {
  /** An error outside the loop (saving, loading); "" takes it away. */
  alert(message: string): void;
  graphicsLost(): void;
  openOther(): void;
  help(): void;
}

export class Case implements Actions {
  readonly grid: Grid;
  readonly mask: Mask;
  readonly viewer: Viewer;
  readonly loop: Loop;
  readonly editor: Editor;
  readonly tools: Tools;
  readonly display: Display;
  readonly evidence: EvidenceView;
  private readonly pointer: Pointer;

  private constructor(
    private readonly api: Api,
    private readonly status: Status,
    source: Source,
    session: Session,
    mask: Mask,
    viewer: Viewer,
    private readonly frames: PaneFrame[],
    private readonly host: CaseHost,
  ) {
    [this.grid, this.mask, this.viewer] = [mask.grid, mask, viewer];
    this.loop = new Loop(api, source, session, this.grid, mask, {
      visible: () => viewer.cross[2],
      changed: (images, slices) => this.changed(images, slices),
      told: () => this.showLoop(),
    });
    this.editor = new Editor(mask, viewer, this.loop, () => this.refresh());
    this.tools = new Tools(this.editor);
    this.display = new Display(viewer, viewer.panes.get("synthesis")!, this.loop.results);
    this.evidence = new EvidenceView(this.loop, api, viewer, (error) => this.host.alert(messageOf(error)));
    this.pointer = new Pointer(
      viewer,
      this.tools,
      (pane) => this.ranged(pane),
      (pane) => (pane === this.display.pane ? this.evidence.inside : null),
    );
    for (const frame of frames) {
      this.pointer.attach(frame.pane);
      frame.pane.onLost = () => host.graphicsLost();
      frame.showRange();
      frame.showOverlay();
    }
    frames.at(-1)!.addChoices((shown) => this.show(shown));
    viewer.onMove = () => this.refresh();
    viewer.onDraw = (panes) => panes.forEach((pane) => this.pointer.drawOver(pane));
    byId<HTMLInputElement>("slice").max = String(this.grid.shape[2] - 1);
    byId("case").textContent = session.name;
    byId("interpolated").hidden = !session.interpolated;
    byId("no-prompt").hidden = this.status.model.prompt;
    document.title = `${session.name} · TLP viewer`;
    viewer.setView({});
    showTiming(null);
  }

  /** Loads a session's images into new panes and starts the first synthesis. */
  static async open(api: Api, status: Status, source: Source, session: Session, host: CaseHost): Promise<Case> {
    const grid = gridOf(session);
    const mask = new Mask(grid);
    if (session.prompt) {
      mask.replace(labels(await gunzip(await api.image(session.id, "prompt")), grid));
      mask.commit();
    }
    const viewer = new Viewer(grid, session.first);
    let opened: Case | null = null;
    const ranged = (pane: Pane) => opened?.ranged(pane);
    const overlaid = (pane: Pane, overlay: Overlay) => opened?.setOverlay(pane, overlay);
    const names = [...session.images, "synthesis" as const];
    const frames = names.map((name) => new PaneFrame(name, grid, ranged, overlaid));
    byId("panes").replaceChildren(...frames.map((frame) => frame.root));
    for (const { pane } of frames) {
      let bytes: ArrayBuffer;
      if (pane.name === "synthesis") bytes = blank(grid);
      else {
        bytes = await gunzip(await api.image(session.id, pane.name));
        checkGrid(bytes, grid, pane.title);
      }
      await pane.load(bytes, mask.data);
      viewer.add(pane);
    }
    opened = new Case(api, status, source, session, mask, viewer, frames, host);
    opened.loop.run();
    return opened;
  }

  /** Nothing is under way or waiting, and everything is painted. */
  get idle(): boolean {
    return !this.loop.busy && !this.viewer.pending && !this.pointer.dragging && !this.editor.locked;
  }

  /** A mask that would be lost if nobody came back. */
  get unsaved(): boolean {
    return this.editor.unsaved && !this.mask.empty;
  }

  /** What another page of this tab needs to go on from here. */
  get left(): Left {
    const { source, session } = this.loop;
    const panes = [...this.viewer.panes.values()];
    const setup: Setup = {
      cross: this.viewer.cross,
      tools: this.tools.settings,
      view: this.viewer.view,
      overlays: Object.fromEntries(panes.map((pane) => [pane.name, pane.overlay])),
      windows: Object.fromEntries(panes.filter((p) => p.range !== p.initial).map((p) => [p.name, p.range])),
    };
    return { session: session.id, source, unsaved: this.unsaved, setup, mask: packed(this.mask.data) };
  }

  /** Takes over what a page before this one left. */
  async takeOver({ setup, mask, unsaved }: Left): Promise<void> {
    Object.assign(this.tools.settings, setup.tools);
    this.viewer.setView(setup.view);
    for (const { pane } of this.frames) {
      const [overlay, range] = [setup.overlays[pane.name], setup.windows[pane.name]];
      if (overlay) this.setOverlay(pane, overlay);
      if (range) {
        pane.setRange(range);
        this.ranged(pane);
      }
    }
    this.viewer.moveTo(setup.cross);
    this.tool(setup.tools.tool);
    const kept = mask === null ? null : await unpacked(mask);
    if (kept?.length === this.grid.size) this.editor.restore(kept);
    this.editor.unsaved = unsaved;
  }

  close(): void {
    byId("interpolated").hidden = true;
    byId("no-prompt").hidden = true;
    document.title = "TLP viewer";
    this.loop.close();
    this.viewer.dispose();
    byId("panes").replaceChildren();
  }

  tool(tool: Tools["settings"]["tool"]): void {
    this.tools.cancel();
    this.tools.settings.tool = tool;
    for (const { pane } of this.frames) pane.over.style.cursor = this.tools.draws ? "crosshair" : "default";
    this.refresh();
  }

  label(label: 1 | 2): void {
    this.tools.settings.label = label;
    this.refresh();
  }

  size(step: 1 | -1): void {
    resize(this.tools.settings, step);
    this.refresh();
  }

  undo(): void {
    this.editor.undo();
  }

  redo(): void {
    this.editor.redo();
  }

  clear(): void {
    this.editor.clear();
  }

  loadMask(): void {
    byId<HTMLInputElement>("mask-file").click();
  }

  async loadMaskFile(file: File, meaning = ""): Promise<void> {
    this.host.alert("");
    try {
      await this.editor.load(file, meaning);
    } catch (error) {
      const unknown = error instanceof Refused && error.kind === "UnknownLabels" && meaning === "";
      const told = unknown && prompt(`${error.message}\n\nWhat do its labels mean?`, "tumour=1,3 oedema=2");
      if (told) await this.loadMaskFile(file, told);
      else this.host.alert(`The mask was not loaded: ${messageOf(error)}`);
    }
  }

  saveMask(): void {
    void this.save("prompt");
  }

  saveSynthesis(): void {
    void this.save("synthesis");
  }

  openOther(): void {
    this.host.openOther();
  }

  show(shown: Shown): void {
    this.display.show(shown);
    this.frames.at(-1)!.showRange();
    this.frames.at(-1)!.showOverlay();
    this.refresh();
  }

  togglePrompt(): void {
    this.show(this.display.shown === "synthesis" ? "plain" : "synthesis");
  }

  toggleDifference(): void {
    this.show(this.display.shown === "difference" ? "synthesis" : "difference");
  }

  toggleOverlay(): void {
    const pane = this.viewer.active;
    if (!pane) return;
    const next = OVERLAYS[(OVERLAYS.indexOf(pane.overlay) + 1) % OVERLAYS.length]!;
    this.setOverlay(pane, next);
  }

  private setOverlay(pane: Pane, overlay: Overlay): void {
    if (pane === this.display.pane) this.display.setOverlay(overlay);
    else this.viewer.setOverlay(pane, overlay);
    this.frameOf(pane).showOverlay();
  }

  private frameOf(pane: Pane): PaneFrame {
    return this.frames.find((one) => one.pane === pane)!;
  }

  opacity(step: 1 | -1): void {
    this.setOpacity(this.viewer.view.opacity + 0.05 * step);
  }

  setOpacity(opacity: number): void {
    this.viewer.setView({ opacity: Math.min(Math.max(opacity, 0), 1) });
  }

  toggleEvidence(): void {
    this.evidence.toggle();
  }

  multiplanar(): void {
    this.viewer.setView({ multiplanar: !this.viewer.view.multiplanar });
  }

  crosshair(): void {
    this.viewer.setView({ crosshair: !this.viewer.view.crosshair });
  }

  convention(): void {
    this.viewer.setView({ radiological: !this.viewer.view.radiological });
  }

  resetWindows(): void {
    for (const frame of this.frames) {
      frame.pane.setRange({ ...frame.pane.initial });
      this.ranged(frame.pane);
    }
  }

  zoom(factor: number): void {
    this.viewer.zoomBy(factor);
  }

  move(right: number, up: number, pen: boolean): void {
    this.viewer.moveBy(this.viewer.view.radiological ? -right : right, up, 0);
    const { tool } = this.tools.settings;
    if (pen && (tool === "brush" || tool === "eraser")) this.stamp(false);
  }

  slice(step: number): void {
    this.viewer.moveBy(0, 0, step);
  }

  stamp(close: boolean): void {
    if (this.viewer.active) this.tools.stamp(this.viewer.active, this.viewer.cross, close);
    this.viewer.draw();
  }

  cancel(): void {
    this.pointer.cancel();
    this.viewer.draw();
  }

  help(): void {
    this.host.help();
  }

  refresh(): void {
    showPanel(this.tools, this.editor, this.viewer);
    showPosition(this.viewer.cross, this.grid.world(this.viewer.cross), this.grid.shape[2]);
    this.frames.at(-1)!.showChoice(this.display);
    this.showLoop();
  }

  private showLoop(): void {
    const done = !this.loop.busy && this.loop.phase === "live";
    if (done && this.display.fit(true)) this.frameOf(this.display.pane).showRange();
    showProgress(this.loop);
    this.evidence.follow();
    showDevice(this.status, this.loop.session);
    if (this.loop.timing) showTiming(this.loop.timing);
    const { phase, message } = this.loop;
    if (phase === "offline") {
      this.host.alert(`${message} Trying again; what you draw is kept and sent when it is back.`);
    } else if (phase === "failed") {
      this.host.alert(message);
    } else if (this.toldPhase !== "live") {
      this.host.alert("");
    }
    this.toldPhase = phase;
  }

  private toldPhase: Loop["phase"] = "live";

  /** Finished slices came in. */
  private changed(images: readonly ResultName[], slices: readonly number[]): Promise<void> {
    const painted = this.display.changed(images, slices);
    if (this.display.fit(false)) this.frameOf(this.display.pane).showRange();
    return painted;
  }

  private ranged(pane: Pane): void {
    if (pane === this.display.pane) this.display.centre();
    const frame = this.frameOf(pane);
    frame.showRange();
    if (pane === this.display.pane) frame.showChoice(this.display);
    this.viewer.draw(pane);
  }

  /**
   * Keeps a file of what is drawn now: waits until the server has it, and has run it. A mask is kept by
   * the page itself where the server is away.
   */
  private async save(name: FileName): Promise<void> {
    if (this.saving) return;
    this.saving = true;
    this.host.alert("");
    const { unsaved } = this.editor;
    const file = `${this.loop.session.file_stem}_${FILES[name]}.nii.gz`;
    try {
      await this.loop.settled(name === "prompt" ? "sent" : "run");
      if (name === "prompt") this.editor.unsaved = false;
      download(await this.api.file(this.loop.session.id, name), file);
    } catch (error) {
      if (this.loop.closed) return; // another case was opened meanwhile
      this.editor.unsaved ||= unsaved;
      this.loop.noticed(error);
      if (name === "prompt" && (this.loop.phase !== "live" || error instanceof Unreachable)) {
        download(new Blob([maskFile(this.mask.data, this.grid, this.status.model.labels)]), file);
        this.editor.unsaved = false;
        this.host.alert(`${messageOf(error)} The mask was saved all the same, by this page: its axes are in RAS order.`);
        return;
      }
      this.host.alert(`Not saved: ${messageOf(error)}`);
    } finally {
      this.saving = false;
    }
  }

  private saving = false;
}
