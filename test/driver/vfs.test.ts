import { openLayerDriver } from '../../src/driver/open.ts';
import { driverSuite } from '../contract/driver-suite.ts';

driverSuite('vfs', (settings) => openLayerDriver('vfs', settings));
