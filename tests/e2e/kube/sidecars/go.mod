module drystone.test/sidecars

go 1.24.0

require (
	github.com/container-storage-interface/spec v1.11.0
	google.golang.org/grpc v1.72.2
	k8s.io/kubelet v0.34.4
)
