import { type JobContext, type JobTable, serve } from '../../base/pool.ts';
import { type GzipMemory, helpGzip } from '../../codec/gzip.ts';
import { type ApplyAnswer, type ApplyRequest, apply } from './apply.ts';
import { audit } from './audit.ts';
import { copyRange, keep, spool, unkeep } from './blobs.ts';
import {
  type ChangesRequest,
  changes,
  type DiffSizeRequest,
  diffSize,
  type PackRequest,
  pack,
  type WhyWalkRequest,
  whyWalk,
} from './compare.ts';
import { inflate } from './inflate.ts';
import { Jail } from './jail.ts';
import { mount, unmount } from './mounting.ts';
import { replay } from './replay.ts';
import { type SettleAnswer, type SettleRequest, settle } from './settle.ts';
import { type StepsRequest, steps } from './steps.ts';
import { sync } from './sync.ts';
import { copy, makeDirectory, merge, usage } from './trees.ts';

// The entry module of a job thread. Everything a job needs is loaded here: in a jail the thread would load it from the
// layer (what the codecs load late, `Jail` has them load before the first one).

const jail = new Jail();

const TABLE: JobTable = {
  inflate,
  spool,
  keep,
  unkeep,
  copyRange,
  replay,
  audit,
  merge,
  copy,
  makeDirectory,
  mount,
  unmount,
  sync,
  usage,
  helpGzip: (memory: GzipMemory): void => helpGzip(memory),
  apply: (request: ApplyRequest, context: JobContext): ApplyAnswer => apply(request, context, jail),
  settle: (request: SettleRequest, context: JobContext): SettleAnswer => settle(request, context, jail),
  pack: (request: PackRequest, context: JobContext): readonly string[] => pack(request, context, jail),
  steps: (request: StepsRequest, context: JobContext): void => steps(request, context, jail),
  changes: (request: ChangesRequest, context: JobContext): void => changes(request, context, jail),
  whyWalk: (request: WhyWalkRequest, context: JobContext): string | undefined => whyWalk(request, context, jail),
  diffSize: (request: DiffSizeRequest, context: JobContext): number => diffSize(request, context, jail),
};
serve(TABLE);
