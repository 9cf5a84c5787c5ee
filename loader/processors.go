// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"runtime"
)

// spareProcessors is how many processors Go's scheduler has beyond the cores while bundles are loaded.
const spareProcessors = 2

// addProcessors gives Go's scheduler more processors until [removeProcessors] is called. What waits for the disk, in fsync(2) or
// syncfs(2), keeps its processor until the runtime notices, up to 10 ms later, and a load does so some hundred times: on two cores
// nothing was decompressed meanwhile. It halts the whole process for a moment, of which a round that writes nothing has no need.
// What an operator set by GOMAXPROCS stays.
func addProcessors() {
	if !areProcessorsSet() {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcessors)
	}
}

func removeProcessors() {
	if !areProcessorsSet() {
		runtime.SetDefaultGOMAXPROCS()
	}
}

func areProcessorsSet() bool { return os.Getenv("GOMAXPROCS") != "" }
