// What a probe finds in a process of its own: `node probe-child.ts DIRECTORY`, as JSON.
import { fromText } from '../../src/base/bytes.ts';
import { probeOverlay } from '../../src/driver/overlay/probe.ts';
import { openThreads } from '../../src/graph/threads.ts';

await using threads = await openThreads(1);
console.log(JSON.stringify(await probeOverlay(fromText(process.argv[2] as string), threads.perform)));
