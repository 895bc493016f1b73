/** Where a store says what is worth knowing and not worth failing for. There is no default output. */
export interface Log {
  readonly debug: (message: string) => void;
  readonly info: (message: string) => void;
  readonly warn: (message: string) => void;
}

const nothing = (): void => {};
/** Drops everything. */
export const SILENT: Log = { debug: nothing, info: nothing, warn: nothing };
