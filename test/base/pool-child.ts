// A process of its own: `node pool-child.ts idle|pending`.
import { Pool } from '../../src/base/pool.ts';

const pool = new Pool(new URL('pool-thread.ts', import.meta.url), 2);
console.log(await pool.run({ name: 'count', request: 0 }));
// Nobody waits: the process ends when nothing holds it.
if (process.argv[2] === 'pending') void pool.run({ name: 'count', request: 400 }).then((n) => console.log(`done ${n}`));
