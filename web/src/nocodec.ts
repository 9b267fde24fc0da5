/** Stands in the bundle for the Zarr codecs that NiiVue would load on demand. */
export default {
  fromConfig(): never {
    throw new Error("This page reads no Zarr.");
  },
};
