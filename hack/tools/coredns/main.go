// The cluster's name server of the end-to-end tests: CoreDNS with the four plugins that a one-node cluster needs.
//
// CoreDNS as it is released brings fifty plugins and the client libraries of four clouds; compiled with these four it is built in
// a tenth of the time, and most of what it needs has been compiled for Kubernetes already.
package main

import (
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	coremain.Run()
}
