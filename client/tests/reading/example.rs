use keyferry_client::{Client, Error, Options, Reason};

/// The password of a service's database, or `None` while nobody has stored one.
async fn database_password(options: Options) -> Result<Option<String>, Error> {
    let client = Client::connect(options).await?;
    match client.get_secret("stores/local/secrets/db-password").await {
        Ok(secret) => Ok(String::from_utf8(secret.payload.to_vec()).ok()),
        // Names, reasons and retry delays are typed; the message is for people.
        Err(error) if error.reason() == Some(Reason::SecretNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
