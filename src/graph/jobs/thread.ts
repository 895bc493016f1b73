import { type JobContext, type JobTable, serve } from '../../base/pool.ts';
import { warm } from '../../codec/warm.ts';
import { type ApplyAnswer, type ApplyRequest, apply } from './apply.ts';
import { inflate } from './inflate.ts';
import { Jail } from './jail.ts';

// The entry module of a job thread. Everything a job needs is loaded and used once before the first jail: in a jail
// the thread would load it from the layer.

warm();
const jail = new Jail();

const TABLE: JobTable = {
  inflate,
  apply: (request: ApplyRequest, context: JobContext): ApplyAnswer => apply(request, context, jail),
};
serve(TABLE);
