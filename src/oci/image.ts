import type { Digest } from '../base/digest.ts';
import { applyChanges } from './change.ts';
import { parseConfig } from './config.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { asObject, listAt, objectAt, own } from './json.ts';
import type { Platform } from './platform.ts';
import { defaultPlatform } from './platform.ts';

/** What a new layer is put on. */
export interface CommitBase {
  /** The base image's config, as it came; undefined where layers without an image are the base. */
  readonly config?: Buffer;
  /** Diff ids of the layers below, base first; with `config` they are its own. */
  readonly diffIds: readonly Digest[];
}

/** What the new image says of itself. */
export interface CommitOptions {
  /** RFC 3339. The only time that is written, so that equal arguments give equal bytes. */
  readonly created: string;
  readonly author?: string;
  readonly message?: string;
  /** What made the layer, for its history entry. */
  readonly createdBy?: string;
  /** Dockerfile instructions, see `applyChanges`. */
  readonly changes?: readonly string[];
  /** Of an image that has no base. Default: this machine's. */
  readonly platform?: Platform;
}

/** They tell how the base was made, and would be lies about the new image. */
const OF_THE_BASE: readonly string[] = ['id', 'parent', 'container', 'container_config', 'docker_version'];

/**
 * The image config of `base` with one more layer on top. Fields that we do not know stay. Law: its history has exactly
 * one entry without `empty_layer` for each diff id. The answer's digest is the new image's identity.
 */
export function commitConfig(base: CommitBase, diffId: Digest, options: CommitOptions): Buffer {
  const what = 'the config of the base image';
  const parsed = base.config === undefined ? undefined : parseConfig(base.config, what);
  const json = parsed?.json ?? {};
  const draft = new Map<string, JsonValue>(Object.entries(json));
  for (const key of OF_THE_BASE) draft.delete(key);
  draft.set('created', options.created);
  if (options.author !== undefined) draft.set('author', options.author);
  if (parsed === undefined) {
    const { os, architecture, variant } = options.platform ?? defaultPlatform();
    draft.set('architecture', architecture);
    if (variant !== undefined) draft.set('variant', variant);
    draft.set('os', os);
  }
  draft.set('config', applyChanges(objectAt(json, 'config', what) ?? {}, options.changes ?? []));
  const rootfs = new Map<string, JsonValue>(Object.entries(objectAt(json, 'rootfs', what) ?? {}));
  rootfs.set('type', 'layers');
  rootfs.set('diff_ids', [...base.diffIds, diffId]);
  draft.set('rootfs', Object.fromEntries(rootfs));
  draft.set('history', [
    ...fittingHistory(
      listAt(json, 'history', what).map((entry) => asObject(entry, what)),
      base.diffIds.length,
    ),
    {
      created: options.created,
      ...(options.author === undefined ? {} : { author: options.author }),
      created_by: options.createdBy ?? 'layerstore commit',
      ...(options.message === undefined ? {} : { comment: options.message }),
    },
  ]);
  return Buffer.from(JSON.stringify(Object.fromEntries(draft)));
}

/**
 * `history` with exactly `layers` entries that made one. Missing ones are put first: what a tool did not record is
 * mostly the base. Surplus ones, the last, are marked empty.
 */
function fittingHistory(history: readonly JsonObject[], layers: number): readonly JsonObject[] {
  let made = 0;
  const marked = history.map((entry) => {
    if (own(entry, 'empty_layer') === true || ++made <= layers) return entry;
    return Object.fromEntries([...Object.entries(entry), ['empty_layer', true]]);
  });
  const missing = Math.max(0, layers - made);
  return [...Array.from({ length: missing }, () => ({ comment: 'not recorded in the base image' })), ...marked];
}
