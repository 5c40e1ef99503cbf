//! A database in the network, and who may stand between.

use std::{path::Path, sync::Arc};

use bonafide_authority::{
    Authority,
    config::{AuthorityConfig, StoreConfig},
};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::SystemClock;
use bonafide_testkit::{Encrypted, Postgres};

use crate::world::trust_domain;

fn config(directory: &Path, url: &str, ca_file: Option<&Path>) -> AuthorityConfig {
    let mut config = AuthorityConfig::new(trust_domain(), directory.join("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.store = StoreConfig::Postgres {
        url: url.parse().unwrap(),
        password_file: None,
        ca_file: ca_file.map(Path::to_owned),
    };
    config
}

#[tokio::test]
async fn a_database_is_spoken_to_only_if_it_is_the_one() {
    let Some(server) = Postgres::encrypted() else { return };
    let database = server.database();
    let directory = tempfile::tempdir().unwrap();
    let init = async |name: &str, ca_file: Option<&Path>| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), &server.url(&database, name), ca_file);
        Authority::init(&config, Arc::new(SystemClock), &SystemRandom)
            .await
            .map_err(|error| error.to_string())
    };
    let other = Postgres::encrypted().unwrap();
    let said = init(Encrypted::NAME, Some(&other.ca_file)).await.unwrap_err();
    assert!(said.contains("certificate"), "of another CA: {said}");
    let said = init("other.test", Some(&server.ca_file)).await.unwrap_err();
    assert!(said.contains("certificate"), "of another name: {said}");
    let said = init(Encrypted::NAME, None).await.unwrap_err();
    assert!(said.contains("no CA"), "{said}");

    let config = config(directory.path(), &server.url(&database, Encrypted::NAME), Some(&server.ca_file));
    Authority::init(&config, Arc::new(SystemClock), &SystemRandom).await.unwrap();
    let running = Authority::start(config, Arc::new(SystemClock), Arc::new(SystemRandom)).await.unwrap();
    let sessions = database.sql(
        "SELECT count(*) > 0, bool_and(ssl AND version = 'TLSv1.3') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'bonafide'",
    );
    assert_eq!(sessions.trim(), "t|t");
    running.shutdown().await.unwrap();
}
