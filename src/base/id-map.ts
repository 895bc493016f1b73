import { StorageError } from './errors.ts';

/** A run of ids: `size` ids from `container` on are, on the host, those from `host` on. */
export interface IdRange {
  readonly container: number;
  readonly host: number;
  readonly size: number;
}

/** Ordered ranges for users and groups; empty lists are the identity. */
export interface IdMaps {
  readonly uid: readonly IdRange[];
  readonly gid: readonly IdRange[];
}

export const IDENTITY: IdMaps = { uid: [], gid: [] };

/** The host's id of a container's `id`. An id outside the ranges is an error, never an overflow id. */
export function toHost(id: number, ranges: readonly IdRange[], what: string): number {
  if (ranges.length === 0) return id;
  for (const r of ranges) if (id >= r.container && id < r.container + r.size) return r.host + (id - r.container);
  throw new StorageError('resource-exhausted', `Cannot map ${what} ${id}: it is in none of the container ranges`);
}

/** The container's id of a host's `id`. */
export function toContainer(id: number, ranges: readonly IdRange[], what: string): number {
  if (ranges.length === 0) return id;
  for (const r of ranges) if (id >= r.host && id < r.host + r.size) return r.container + (id - r.host);
  throw new StorageError('failed-precondition', `Cannot map ${what} ${id}: it is in none of the host ranges`);
}
