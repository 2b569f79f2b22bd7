//! What a sandbox says once it serves: commands to paste.

use super::Sandbox;

impl Sandbox {
    pub fn greeting(&self) -> String {
        let (dir, address) = (self.directory.path().display(), self.broker.grpc_address());
        let admin = self.broker.admin_address().map(|admin| format!("http://{admin}/metrics")).unwrap_or_default();
        format!(
            r#"
A sandbox serves on {address}: a broker, Secret Manager and Key Vault with their clouds' identity services, and an issuer
for callers. Paste into another shell:

  kf() {{ grpcurl -cacert {dir}/ca.pem -cert {dir}/client.pem -key {dir}/client.key "$@"; }}

  kf -d '{{"name": "stores/gcp/secrets/db-password"}}' {address} keyferry.v1.SecretService/GetSecret
  kf -d '{{"name": "stores/azure/secrets/api-key"}}' {address} keyferry.v1.SecretService/GetSecret
  kf -H "authorization: Bearer $(cat {dir}/token.jwt)" {address} keyferry.v1.OperatorService/WhoAmI

As the operator:

  kfo() {{ grpcurl -cacert {dir}/ca.pem -cert {dir}/operator.pem -key {dir}/operator.key "$@"; }}

  kfo {address} keyferry.v1.OperatorService/GetStatus
  cargo run --quiet -- whoami --server https://{address} --ca {dir}/ca.pem --cert {dir}/operator.pem --key {dir}/operator.key

Metrics:     {admin}
The policy:  {dir}/policy/test.cedar (edit it; it is reloaded)

Type here, to break things and to mend them:
"#
        )
    }
}
