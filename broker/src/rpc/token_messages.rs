//! Credentials that end by themselves, and their roles, between the contract's messages and the domain.

use std::time::Duration;

use keyferry_proto::v1::mint_database_token_request::ClientKey as ClientKeyMessage;
use keyferry_proto::v1::mint_database_token_response::Credential as CredentialMessage;
use keyferry_proto::v1::{
    AccessTokenCredential, AccessTokenUsage, CertificateCredential, CredentialKind, DatabaseConnection, DatabaseEngine,
    DatabaseKind, DatabaseRole, MintDatabaseTokenResponse,
};

use super::proto_time::timestamp;
use crate::audit::Receipt;
use crate::databases::tokens::{ClientKey, Connection, Credential, Engine, Facts, Issued, Kind, Proof, Usage};
use crate::error::{Failure, Reason};
use crate::names::RoleName;

const MAX_CLIENT_KEY: usize = 8 * 1024;

/// The answer, made from an audit receipt.
pub(super) fn disclosed(issued: Issued, receipt: &Receipt) -> MintDatabaseTokenResponse {
    let token = issued.disclose(receipt);
    // Tokens and PEM are ASCII.
    let text = |secret: bytes::Bytes| String::from_utf8_lossy(&secret).into_owned();
    let credential = match token.credential {
        Credential::Certificate { chain, key } => CredentialMessage::Certificate(CertificateCredential {
            certificate_chain_pem: chain,
            private_key_pem: key.map(text).unwrap_or_default(),
        }),
        Credential::AccessToken { token, usage } => {
            let usage = match usage {
                Usage::Password => AccessTokenUsage::Password,
                Usage::Bearer => AccessTokenUsage::Bearer,
                Usage::FederatedLogin => AccessTokenUsage::FederatedLogin,
            };
            CredentialMessage::AccessToken(AccessTokenCredential { access_token: text(token), usage: usage.into() })
        }
    };
    MintDatabaseTokenResponse {
        user: token.user,
        credential: Some(credential),
        connection: Some(connection(token.connection)),
        expire_time: Some(timestamp(token.expires)),
        lease: None,
    }
}

fn connection(connection: Connection) -> DatabaseConnection {
    DatabaseConnection {
        engine: engine(connection.engine).into(),
        host: connection.host,
        port: connection.port.into(),
        database: connection.database,
        ca_pem: connection.ca.to_string(),
        tls_server_name: connection.tls_server_name,
        instance: connection.instance,
        parameters: connection.parameters.into_iter().collect(),
    }
}

pub(super) fn role_message(name: &RoleName, facts: &Facts) -> DatabaseRole {
    let span = |span: Duration| prost_types::Duration::try_from(span).ok();
    let proof = match facts.proof {
        Proof::Certificate => CredentialKind::Certificate,
        Proof::AccessToken => CredentialKind::AccessToken,
    };
    DatabaseRole {
        name: name.to_string(),
        description: facts.description.clone(),
        kind: database_kind(facts.kind).into(),
        engine: engine(facts.engine).into(),
        credential_kind: proof.into(),
        database: facts.database.clone(),
        default_ttl: span(facts.default_ttl),
        max_ttl: span(facts.max_ttl),
        max_lifetime: span(facts.max_ttl),
        revocable: false,
        renewable: false,
        accepts_public_key: facts.accepts_public_key,
    }
}

pub(crate) fn database_kind(kind: Kind) -> DatabaseKind {
    match kind {
        Kind::Postgres => DatabaseKind::Postgresql,
        Kind::Cockroach => DatabaseKind::Cockroachdb,
        Kind::CloudSql => DatabaseKind::CloudSql,
        Kind::Spanner => DatabaseKind::Spanner,
        Kind::AzurePostgres => DatabaseKind::AzurePostgresql,
        Kind::AzureMysql => DatabaseKind::AzureMysql,
        Kind::AzureSql => DatabaseKind::AzureSql,
    }
}

fn engine(engine: Engine) -> DatabaseEngine {
    match engine {
        Engine::Postgres => DatabaseEngine::Postgresql,
        Engine::Mysql => DatabaseEngine::Mysql,
        Engine::SqlServer => DatabaseEngine::SqlServer,
        Engine::Spanner => DatabaseEngine::Spanner,
    }
}

pub(super) fn client_key(key: Option<ClientKeyMessage>) -> Result<Option<ClientKey>, Failure> {
    let (field, pem, key) = match key {
        None => return Ok(None),
        Some(ClientKeyMessage::PublicKeyPem(pem)) => ("public_key_pem", pem.len(), ClientKey::Public(pem)),
        Some(ClientKeyMessage::CsrPem(pem)) => ("csr_pem", pem.len(), ClientKey::Request(pem)),
    };
    if pem > MAX_CLIENT_KEY {
        let description = format!("has more than {MAX_CLIENT_KEY} bytes; no key that is accepted needs as many");
        return Err(Failure::bad_field(Reason::InvalidArgument, field, description));
    }
    Ok(Some(key))
}
