import { defineConfig } from "vite";

// The page is data of the Python package: everything in one folder, addressed relatively, nothing
// from another host. `licenses.md` carries the notices of what is bundled.
export default defineConfig({
  base: "./",
  // NiiVue also reads Zarr; the codecs of that (1.4 MB of WebAssembly) have no use: the server sends NIfTI
  resolve: { alias: [{ find: /^numcodecs\/(blosc|lz4|zstd)$/, replacement: "/src/nocodec.ts" }] },
  build: {
    outDir: "../tlp_server/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 4000,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});
