//! Compiles the protos with protox, so that no `protoc` is needed, and keeps the descriptor set for reflection.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

const PROTOS: [&str; 3] = [
    "rustic_ai/agent_host/v1/agent_host_service.proto",
    "rustic_ai/engine/v1/engine_service.proto",
    "externalscaler/externalscaler.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=rustic_ai");
    println!("cargo:rerun-if-changed=externalscaler");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Types of both services first; the services then take a launch as its sender wrote it.
    let shared = out.join("agent");
    fs::create_dir_all(&shared)?;
    let agent = protox::compile(["rustic_ai/agent/v1/agent.proto"], ["."])?;
    tonic_prost_build::configure().btree_map(".").out_dir(shared).compile_fds(agent)?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .extern_path(".rustic_ai.agent.v1", "crate::agent::v1")
        .extern_path(".rustic_ai.agent.v1.AgentLaunch", "crate::raw::RawLaunch")
        .compile_fds(descriptors)?;
    Ok(())
}
