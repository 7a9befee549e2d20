//! Server reflection: what `grpcurl list` and `describe` read, in both versions that clients ask for.

use crate::DESCRIPTORS;
use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection as V1, ServerReflectionServer as V1Server},
    v1alpha::{ServerReflection as V1Alpha, ServerReflectionServer as V1AlphaServer},
};

fn builder(service: &'static str) -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(service)
        .with_service_name("grpc.health.v1.Health")
}

/// grpc.reflection.v1 for a server that offers `service` and health checking.
pub fn v1(service: &'static str) -> Result<V1Server<impl V1 + use<>>, Error> {
    builder(service).build_v1()
}

/// grpc.reflection.v1alpha for the same.
pub fn v1alpha(service: &'static str) -> Result<V1AlphaServer<impl V1Alpha + use<>>, Error> {
    builder(service).build_v1alpha()
}
