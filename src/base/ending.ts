/** Set by what is loaded and can. */
export const ending: {
  /** Ends the process as it is, with that exit code, once descriptors have these flags again. */
  now?: (code: number, flags: ReadonlyMap<number, number>) => void;
  /** Sends to a socket what it takes without a wait; answers how many bytes: 0 where it is full, -1 where it fails. */
  send?: (fd: number, bytes: Uint8Array) => number;
} = {};
