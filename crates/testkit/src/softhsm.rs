use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A throw-away SoftHSM: a PKCS#11 device in software. Its tokens are gone with this value.
#[derive(Debug)]
pub struct SoftHsm(TempDir);

impl SoftHsm {
    /// Its library, where the Debian package `softhsm2` has it.
    pub const MODULE: &'static str = "/usr/lib/softhsm/libsofthsm2.so";
    /// The PIN of the user of every token.
    pub const PIN: &'static str = "a pin of a test";

    /// One with a token of this label; `None`, and a word about it, if SoftHSM is not installed.
    ///
    /// # Panics
    /// When it is installed and does not work, or when `BONAFIDE_TEST_SOFTHSM=required` says that it must be there.
    pub fn with_token(label: &str) -> Option<Self> {
        if !Path::new(Self::MODULE).exists() {
            let required = std::env::var_os("BONAFIDE_TEST_SOFTHSM").is_some_and(|value| value == "required");
            assert!(!required, "SoftHSM is not installed at {}", Self::MODULE);
            eprintln!("skipped: SoftHSM (Debian package `softhsm2`) is not installed");
            return None;
        }
        let hsm = Self(tempfile::Builder::new().prefix("bonafide-hsm-").tempdir().expect("a directory"));
        fs::create_dir(hsm.tokens()).expect("a directory for tokens");
        let settings = format!("directories.tokendir = {}\n", hsm.tokens().display());
        fs::write(hsm.settings(), settings).expect("its settings");
        hsm.add_token(label);
        Some(hsm)
    }

    /// Its settings: what its library finds in `SOFTHSM2_CONF`.
    pub fn settings(&self) -> PathBuf {
        self.0.path().join("softhsm2.conf")
    }

    /// Makes one more token.
    ///
    /// # Panics
    /// When it can't.
    pub fn add_token(&self, label: &str) {
        self.run(&["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", Self::PIN]);
    }

    /// Brings a key that was made elsewhere, as PKCS#8 in PEM, into a token.
    ///
    /// # Panics
    /// When it can't.
    pub fn import(&self, token: &str, id: &str, key: &Path) {
        let key = key.to_str().expect("a path that is text");
        let of = ["--token", token, "--label", "bonafide", "--id", id, "--force", "--pin", Self::PIN];
        self.run(&[&["--import", key], of.as_slice()].concat());
    }

    /// What every token holds, one file for each object, as they lie on the disk: names of public ones can be read in there.
    ///
    /// # Panics
    /// When the folders can't be read.
    pub fn objects(&self) -> Vec<Vec<u8>> {
        let files =
            |path: PathBuf| fs::read_dir(path).expect("a folder").map(|file| file.expect("a file").path());
        files(self.tokens())
            .flat_map(files)
            .filter(|path| path.extension().is_some_and(|end| end == "object"))
            .filter(|path| path.file_name().is_some_and(|name| name != "token.object"))
            // One may go between the list and the look.
            .filter_map(|path| fs::read(path).ok())
            .collect()
    }

    /// Loses all tokens.
    ///
    /// # Panics
    /// When they can't be removed.
    pub fn lose_tokens(&self) {
        fs::remove_dir_all(self.tokens()).expect("its tokens");
        fs::create_dir(self.tokens()).expect("a directory for tokens");
    }

    fn tokens(&self) -> PathBuf {
        self.0.path().join("tokens")
    }

    fn run(&self, arguments: &[&str]) {
        let done = Command::new("softhsm2-util")
            .args(arguments)
            .env("SOFTHSM2_CONF", self.settings())
            .output()
            .expect("softhsm2-util");
        assert!(done.status.success(), "{done:?}");
    }
}
