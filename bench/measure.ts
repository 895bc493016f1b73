import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { overhead } from './command.ts';

/** What one run of one piece of work took. */
export interface Sample {
  readonly wallSeconds: number;
  /** Of the command and its children, and of the engine's daemons while it ran. */
  readonly cpuSeconds: number;
  /** Resident memory of the same processes together, at its highest; undefined where it was too short to see. */
  readonly peakBytes: number | undefined;
  /** Part of the machine's CPU time that other programs (and the kernel's own threads) took meanwhile: 0 to 1. */
  readonly othersShare: number;
  /** Part that the hypervisor gave to other machines. */
  readonly stealShare: number;
}

/** USER_HZ, which is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
const LOOK_EVERY_MS = 40;

/**
 * Runs `work` and measures it; a number that it gives is taken as its seconds. Runs in a process namespace of our own:
 * every process seen besides this one belongs to what is measured.
 */
export async function measure(work: () => Promise<number | undefined>): Promise<Sample> {
  const before = new Set(processes());
  let peak: number | undefined;
  const look = setInterval(() => {
    peak = Math.max(peak ?? 0, residentBytes(before));
  }, LOOK_EVERY_MS);
  try {
    const [cpuBefore, machineBefore, start] = [cpuTicks(), machineTicks(), performance.now()];
    const overheadBefore = overhead.seconds;
    const own = await work();
    const wallSeconds = (performance.now() - start) / 1000 - (overhead.seconds - overheadBefore);
    const [cpu, machine] = [cpuTicks() - cpuBefore, machineTicks()];
    const total = Math.max(1, machine.total - machineBefore.total);
    const others = machine.busy - machineBefore.busy - cpu;
    return {
      wallSeconds: own ?? wallSeconds,
      cpuSeconds: cpu / TICKS_PER_SECOND,
      peakBytes: peak,
      othersShare: Math.max(0, others) / total,
      stealShare: (machine.steal - machineBefore.steal) / total,
    };
  } finally {
    clearInterval(look);
  }
}

function processes(): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && name !== String(process.pid));
}

/** A process that ends while it is read is nobody's fault. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** Of processes that were there before, what they hold now; of new ones, the most they ever held. */
function residentBytes(before: ReadonlySet<string>): number {
  let sum = 0;
  for (const pid of processes()) {
    const field = before.has(pid) ? 'VmRSS' : 'VmHWM';
    sum += Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(read(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
  }
  return sum;
}

/** What our children that ended took, and all processes here, with their children that ended. */
function cpuTicks(): number {
  const times = (pid: string): number[] => {
    const stat = read(`/proc/${pid}/stat`);
    // proc(5): utime, stime, cutime, cstime are fields 14 to 17; the name in field 2 may hold anything.
    return stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(11, 15)
      .map(Number);
  };
  const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
  const ours = sum(times('self').slice(2));
  return ours + sum(processes().map((pid) => sum(times(pid))));
}

interface MachineTicks {
  readonly busy: number;
  readonly steal: number;
  readonly total: number;
}

function machineTicks(): MachineTicks {
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = (
    /^cpu +(.*)$/m.exec(read('/proc/stat'))?.[1] ?? ''
  )
    .split(' ')
    .map(Number);
  const busy = user + nice + system + irq + softirq;
  return { busy, steal, total: busy + idle + iowait + steal };
}

/** The machine in a few words, without its name. */
export function describeMachine(): string {
  const model = cpus()[0]?.model ?? 'unknown processor';
  const memory = Number(/^MemTotal:\s+(\d+)/m.exec(read('/proc/meminfo'))?.[1] ?? 0) / 1024 / 1024;
  const kernel = read('/proc/sys/kernel/osrelease').trim();
  return `${cpus().length} × ${model}, ${memory.toFixed(0)} GiB, Linux ${kernel}, Node ${process.versions.node}`;
}

/** Load average of the last minute. */
export function loadAverage(): number {
  return Number(read('/proc/loadavg').split(' ')[0] ?? 0);
}
