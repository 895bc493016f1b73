import { fstatSync } from 'node:fs';
import { nowMs } from '../../base/clock.ts';
import type { Progress } from '../../store/types.ts';
import type { Context } from './context.ts';
import { isNull } from './direct-output.ts';
import { humanSize, shownId } from './format.ts';

interface ProgressView {
  readonly onProgress: (progress: Progress) => void;
  finish(): void;
}

/** Runs `work` with progress shown, which ends with it, however it ends. */
export async function withProgress<T>(
  context: Context,
  work: (onProgress: (progress: Progress) => void) => Promise<T>,
): Promise<T> {
  const view = progressView(context);
  try {
    return await work(view.onProgress);
  } finally {
    view.finish();
  }
}

const DRAW_MS = 100;
const LINE_MS = 5_000;
const BAR_WIDTH = 30;

/** A bar per layer on a terminal, a line now and then elsewhere, nothing with `--quiet`. All on standard error. */
function progressView(context: Context): ProgressView {
  if (context.quiet) return { onProgress: () => {}, finish: () => {} };
  const isBars = context.env['TERM'] !== 'dumb' && mayBeTerminal() && context.stderr.isTTY === true;
  return isBars ? bars(context.stderr) : lines((text) => context.stderr.write(text), nowMs);
}

/** Of what is none, Node's stream is not made before there is something to say. */
function mayBeTerminal(): boolean {
  try {
    const stat = fstatSync(2);
    return stat.isCharacterDevice() && !isNull(stat);
  } catch {
    return false; // it is gone
  }
}

/** One line for each layer, drawn over at most ten times a second. */
function bars(stderr: NodeJS.WriteStream): ProgressView {
  const shown = new Map<string, Progress>();
  let drawnLines = 0;
  let drawnAt = 0;
  const draw = (): void => {
    drawnAt = nowMs();
    // What scrolled out of the screen cannot be drawn over.
    const visible = [...shown.values()].slice(-Math.max(1, (stderr.rows || 24) - 2));
    const up = drawnLines > 0 ? `\x1b[${drawnLines}A` : '';
    stderr.write(up + visible.map((one) => `\r\x1b[2K${barLine(one, stderr.columns || 80)}\n`).join(''));
    drawnLines = visible.length;
  };
  return {
    onProgress: (progress) => {
      // What concerns no single layer has a line for each step.
      shown.set(progress.layer ?? progress.step, progress);
      if (nowMs() - drawnAt >= DRAW_MS) draw();
    },
    finish: () => {
      if (shown.size > 0) draw();
    },
  };
}

/** `0123456789ab unpack [=====>    ] 34.1MB/100MB`, never wider than the terminal. */
export function barLine(progress: Progress, columns: number): string {
  const { bytesDone, bytesTotal } = progress;
  const total = bytesTotal === undefined || bytesTotal === 0 ? undefined : bytesTotal;
  const sizes = total === undefined ? humanSize(bytesDone) : `${humanSize(bytesDone)}/${humanSize(total)}`;
  const label = `${shownId(progress.layer ?? '', false).padEnd(12)} ${progress.step.padEnd(6)}`;
  if (total === undefined) return `${label} ${sizes}`.slice(0, columns - 1);
  const width = Math.min(BAR_WIDTH, columns - label.length - sizes.length - 6);
  if (width < 5) return `${label} ${sizes}`.slice(0, columns - 1);
  const filled = Math.round(Math.min(1, bytesDone / total) * width);
  const bar = filled === width ? '='.repeat(width) : `${'='.repeat(filled)}>`.padEnd(width).slice(0, width);
  return `${label} [${bar}] ${sizes}`;
}

/** A line every five seconds: short runs stay silent, logs of long ones stay short. */
function lines(write: (text: string) => void, now: () => number): ProgressView {
  let saidAt = now();
  return {
    onProgress: (progress) => {
      if (now() - saidAt < LINE_MS) return;
      saidAt = now();
      const total = progress.bytesTotal === undefined ? '' : ` of ${humanSize(progress.bytesTotal)}`;
      const layer = progress.layer === undefined ? '' : ` ${shownId(progress.layer, false)}`;
      write(`${progress.step}${layer}: ${humanSize(progress.bytesDone)}${total}\n`);
    },
    finish: () => {},
  };
}
