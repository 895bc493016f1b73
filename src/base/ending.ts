/** Set by what is loaded and can. */
export const ending: {
  /** Ends the process as it is, with that exit code, once descriptors have these flags again. */
  now?: (code: number, flags: ReadonlyMap<number, number>) => void;
} = {};
