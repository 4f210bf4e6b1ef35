//! Writes the files of `docs/vectors`.
//!
//! ```text
//! cargo run -p conclave-tests --bin vectors -- write     what follows from fixed seeds
//! cargo run -p conclave-tests --bin vectors -- record    a new session.json
//! ```
//!
//! Test `vectors` of this package compares the files with what the program makes, and plays the session. So after a change of the wire both are
//! run once, and the files are looked at.

use anyhow::{Result, bail};
use conclave_tests::vectors::{files, folder, read_page, session};

fn main() -> Result<()> {
    let page = read_page()?;
    let folder = folder();
    std::fs::create_dir_all(&folder)?;
    match std::env::args().nth(1).as_deref() {
        Some("write") => {
            let (files, met) = files(&page)?;
            for file in files {
                std::fs::write(folder.join(file.name), file.content()?)?;
            }
            let cases = page.cases();
            let missing = page.structs.iter().chain(&cases);
            for missing in missing.filter(|name| !met.contains(*name)) {
                println!("no vector of {missing}");
            }
        }
        Some("record") => {
            let recorded = session::record(&page)?;
            println!("{:?}", session::play(&page, &recorded)?);
            std::fs::write(folder.join(session::FILE), recorded.to_json()?)?;
        }
        _ => bail!("say write or record"),
    }
    Ok(())
}
