//! Server reflection: what `grpcurl list` and `describe` read, in both versions that clients ask for.

use crate::DESCRIPTORS;
use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection as V1, ServerReflectionServer as V1Server},
    v1alpha::{ServerReflection as V1Alpha, ServerReflectionServer as V1AlphaServer},
};

fn builder(services: &[&'static str]) -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
}

/// grpc.reflection.v1 for a server that offers `services` and health checking.
pub fn v1(services: &[&'static str]) -> Result<V1Server<impl V1 + use<>>, Error> {
    builder(services).build_v1()
}

/// grpc.reflection.v1alpha for the same.
pub fn v1alpha(services: &[&'static str]) -> Result<V1AlphaServer<impl V1Alpha + use<>>, Error> {
    builder(services).build_v1alpha()
}
