/** The opening screen: upload a scan, or pick one under the server's folder. */

import type { Api, Folder, ImageName, Session, Source, Status } from "./api";
import { byId, make, messageOf } from "./dom";

const NAMES: Record<ImageName, string> = { t1: "T1", t2: "T2" };

/** Shows the screen until a session is open. What was chosen stays when the server refuses it. */
export class OpenScreen {
  private readonly root = byId("open");
  private readonly error = make("p", { class: "error", role: "alert" });
  private readonly go = make("button", { class: "go", type: "submit" }, "Open");
  private readonly browser = make("div");
  private readonly chosen = make("p");
  private readonly fields = new Map<ImageName, HTMLInputElement>();
  private files: Partial<Record<ImageName, File>> = {};
  private paths: Partial<Record<ImageName, string>> = {};

  constructor(
    private readonly api: Api,
    private readonly status: Status,
    private readonly opened: (source: Source, session: Session) => Promise<void>,
  ) {
    const { inputs, name } = status.model;
    const form = make("form", {}, make("h1", {}, "Open a scan"));
    form.append(make("p", {}, `${name} takes ${inputs.map((one) => `a plain ${NAMES[one]}`).join(" and ")} (NIfTI).`));
    if (status.case) form.append(this.caseCard());
    form.append(this.uploadCard());
    if (status.root) form.append(this.browseCard());
    form.append(this.error, this.go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
    this.root.replaceChildren(form);
    this.update();
    if (status.root) void this.browse("");
  }

  /** The way back to the case that the server was started with. */
  private caseCard(): HTMLElement {
    const back = make("button", { type: "button" }, "Open it");
    back.addEventListener("click", () => void this.open({ kind: "case" }));
    return make("div", { class: "card" }, make("h2", {}, "The case the server was started with"), make("div", {}, back));
  }

  private uploadCard(): HTMLElement {
    const card = make("div", { class: "card" }, make("h2", {}, "Files of this computer"));
    for (const name of this.status.model.inputs) {
      const field = make("input", { type: "file", accept: ".nii,.gz", id: `upload-${name}` });
      field.addEventListener("change", () => {
        const [file] = field.files ?? [];
        if (file) this.files[name] = file;
        else delete this.files[name];
        this.paths = {};
        this.update();
      });
      this.fields.set(name, field);
      card.append(make("label", {}, NAMES[name], field));
    }
    return card;
  }

  private browseCard(): HTMLElement {
    return make("div", { class: "card" }, make("h2", {}, "Folder of the server"), this.browser, this.chosen);
  }

  private async browse(path: string): Promise<void> {
    try {
      this.list(await this.api.files(path));
    } catch (error) {
      this.error.textContent = messageOf(error);
    }
  }

  private list(folder: Folder): void {
    const join = (name: string) => (folder.path ? `${folder.path}/${name}` : name);
    const crumbs = make("div", { class: "crumbs" });
    const parts = folder.path ? folder.path.split("/") : [];
    ["Folder", ...parts].forEach((part, i) => {
      const to = parts.slice(0, i).join("/");
      crumbs.append(make("button", { type: "button", onclick: () => void this.browse(to) }, part), "/");
    });
    const entries = make("ul", { class: "entries" });
    for (const name of folder.folders) {
      const enter = make("button", { type: "button", onclick: () => void this.browse(join(name)) }, "Open folder");
      enter.setAttribute("aria-label", `Open folder ${name}`);
      entries.append(make("li", {}, make("span", {}, `${name}/`), enter));
    }
    for (const name of folder.files) entries.append(this.entry(name, join(name)));
    if (entries.childElementCount === 0) entries.append(make("li", {}, "Nothing to open here."));
    if (folder.unnamed > 0) {
      const many = folder.unnamed === 1 ? "One more has a name" : `${folder.unnamed} more have names`;
      entries.append(make("li", {}, `${many} that is not UTF-8; rename it to open it.`));
    }
    if (folder.truncated) entries.append(make("li", {}, "More than can be listed."));
    this.browser.replaceChildren(crumbs, entries);
    this.update();
  }

  private entry(name: string, path: string): HTMLElement {
    const item = make("li", {}, make("span", {}, name));
    for (const input of this.status.model.inputs) {
      const says = NAMES[input];
      const pick = make("button", { type: "button" }, says);
      pick.setAttribute("aria-label", `${name} is the ${says}`);
      pick.dataset["path"] = path;
      pick.dataset["input"] = input;
      pick.addEventListener("click", () => {
        if (this.paths[input] === path) delete this.paths[input];
        else this.paths[input] = path;
        this.files = {};
        for (const field of this.fields.values()) field.value = "";
        this.update();
      });
      item.append(pick);
    }
    return item;
  }

  private update(): void {
    for (const button of this.browser.querySelectorAll<HTMLButtonElement>("button[data-path]")) {
      const { path, input } = button.dataset;
      button.setAttribute("aria-pressed", String(this.paths[input as ImageName] === path));
    }
    const chosen = { ...this.paths, ...this.files };
    const picked = this.status.model.inputs.filter((name) => this.paths[name]);
    this.chosen.textContent = picked.map((name) => `${NAMES[name]}: ${this.paths[name]}`).join("   ·   ");
    const missing = this.status.model.inputs.filter((name) => !chosen[name]);
    this.go.disabled = missing.length > 0;
    this.go.textContent = missing.length > 0 ? `Choose ${missing.map((m) => NAMES[m]).join(" and ")}` : "Open";
  }

  private async submit(): Promise<void> {
    const upload = Object.keys(this.files).length > 0;
    const source: Source = upload
      ? { kind: "upload", files: { ...this.files } }
      : { kind: "paths", paths: { ...this.paths } };
    await this.open(source);
  }

  private async open(source: Source): Promise<void> {
    this.error.textContent = "";
    this.go.disabled = true;
    this.go.textContent = "Opening…";
    try {
      await this.opened(source, await this.api.open(source));
    } catch (error) {
      this.error.textContent = messageOf(error);
    }
    this.update();
  }
}
