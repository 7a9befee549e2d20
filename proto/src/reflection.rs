//! Server reflection: what `grpcurl list` and `describe` read, in both versions that clients ask for. The details of errors are
//! served too, or grpcurl could print them only as bytes.

use crate::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection as V1, ServerReflectionServer as V1Server},
    v1alpha::{ServerReflection as V1Alpha, ServerReflectionServer as V1AlphaServer},
};

fn builder(services: &[&'static str]) -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
}

/// Methods of `services`, each as `service/method`.
pub fn methods(services: &[&str]) -> Vec<String> {
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect("they were encoded when this was built");
    let mut methods = vec![];
    for file in descriptors.file {
        let package = file.package.unwrap_or_default();
        for service in file.service {
            let name = format!("{package}.{}", service.name());
            if services.contains(&name.as_str()) {
                methods.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
            }
        }
    }
    methods
}

/// grpc.reflection.v1 for a server that offers `services` and health checking.
pub fn v1(services: &[&'static str]) -> Result<V1Server<impl V1 + use<>>, Error> {
    builder(services).build_v1()
}

/// grpc.reflection.v1alpha for the same.
pub fn v1alpha(services: &[&'static str]) -> Result<V1AlphaServer<impl V1Alpha + use<>>, Error> {
    builder(services).build_v1alpha()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::v1::engine_service_server::SERVICE_NAME, externalscaler::external_scaler_server};

    #[test]
    fn methods_are_those_of_the_services_that_are_asked_for() {
        let methods = methods(&[SERVICE_NAME, external_scaler_server::SERVICE_NAME]);
        for known in ["rustic_ai.engine.v1.EngineService/CreateAgent", "externalscaler.ExternalScaler/GetMetrics"] {
            assert!(methods.iter().any(|method| method == known), "{known} in {methods:?}");
        }
        assert!(!methods.iter().any(|method| method.contains("agent_host")), "{methods:?}");
    }
}
