//! A registry's answer to a request for a manifest: status line, headers and body are the bytes, and then the connection ends.

use std::sync::Arc;

use builder_core::registry::{NoCredentials, Patience, Registry, RegistryConfig, RegistryHost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) fn read(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let mut config = RegistryConfig::default();
        config.registries.insert(address.clone(), RegistryHost { http: true, ..RegistryHost::default() });
        let registry = Registry::new(config, Arc::new(NoCredentials));
        let reference = format!("{address}/image:tag").parse().expect("a reference");
        let answers = async {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { return };
                let mut request = [0; 4096];
                // A client that goes away has what it wanted.
                let _ = client.read(&mut request).await;
                let _ = client.write_all(data).await;
            }
        };
        tokio::select! {
            _ = registry.manifest(&reference, None, Patience::Short) => {}
            () = answers => {}
        }
    });
}
