import type { ByteString } from '../../src/base/bytes.ts';
import { IDENTITY } from '../../src/base/id-map.ts';
import { SILENT } from '../../src/base/log.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { id } from '../contract/driver-house.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';

// Makes, mounts and removes layers until it is killed: `churn.ts HOME RUN`.

const [home, run] = process.argv.slice(2) as ByteString[];
const driver = await openLayerDriver('overlay2', {
  home: home as ByteString,
  run: run as ByteString,
  options: [],
  idMaps: IDENTITY,
  log: SILENT,
  perform: inlinePerformer(),
});
process.stdout.write('started\n');
for (let n = 0; ; n++) {
  await driver.create(id(`churn${n}`), { parent: id('base'), writable: true });
  const mounted = await driver.mount(id(`churn${n}`));
  if (n % 2 === 0) continue; // some stay mounted, for whoever comes after the kill
  await mounted[Symbol.asyncDispose]();
  await driver.remove(id(`churn${n}`));
}
