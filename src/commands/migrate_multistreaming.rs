//! What MultiStreamingServer does, for `migrate`. It has no configuration: its addresses and its limit
//! stand in its code, so the text is the same for everybody.

use super::migrate_draft::Draft;

pub(super) fn migrate() -> anyhow::Result<()> {
    drafted().print("MultiStreamingServer")
}

fn drafted() -> Draft {
    let mut draft = Draft::default();
    draft.text += "# Who reaches this address may upload objects too, and delete them. The original serves the\n\
         # files of its working directory there; here sealed objects are the files of data.\n";
    draft.option("listen", vec!["0.0.0.0:80"], "Where /stream0 and the others are read.");
    draft.table("cameras");
    draft.option("listen", vec!["0.0.0.0:12345"], "Where cameras send their pictures.");
    draft.option("streams_max", 8, "/stream0 to /stream7.");
    draft.table("compat");
    let why = "A stream that nobody sends is 200 and empty, as there; false makes it 404.";
    draft.option("empty_stream", true, why);
    draft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_its_code_is_said() {
        let table: toml::Table = toml::from_str(&drafted().text).unwrap();
        assert_eq!(table["listen"].to_string(), "[\"0.0.0.0:80\"]");
        assert_eq!(table["cameras"]["listen"].to_string(), "[\"0.0.0.0:12345\"]");
        assert_eq!(table["cameras"]["streams_max"].as_integer(), Some(8));
        assert_eq!(table["compat"]["empty_stream"].as_bool(), Some(true));
    }
}
