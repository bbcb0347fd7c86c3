//! The folder of templates: `NAME/NUMBER/`, with the source, the warm-up and the built file.
//!
//! Owns: numbers, names of files, what survives a crash at any point.  Not: what is in the files.
//! F1  a number's folder has its final name only once the template was built whole.
//! F2  `NAME/active` names the number that new agents get; it is replaced in one step.
//! F3  a number is never used twice while its folder is there.

use heronry_engine::verb::Language;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The template file within its folder.
const BUILT: &str = "template.heron";
/// What the name of a folder ends with until its template is built (F1).
const PART: &str = ".part";

/// The folder.
pub(super) struct Shelf(PathBuf);

/// A number whose template is not built yet.
pub(super) struct Staged {
    /// Its number.
    pub(super) number: u32,
    /// The agent's file, if there is one.
    pub(super) source: Option<PathBuf>,
    /// The warm-up, if there is one.
    pub(super) warm: Option<PathBuf>,
    /// What the build is to write.
    pub(super) out: PathBuf,
    folder: PathBuf,
    kept: PathBuf,
}

/// A template that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its name.
    pub(super) name: String,
    /// Its number.
    pub(super) number: u32,
    /// Its file.
    pub(super) file: PathBuf,
    /// The agent's file, if there is one.
    pub(super) source: Option<PathBuf>,
    /// The warm-up, if there is one.
    pub(super) warm: Option<PathBuf>,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Shelf {
        Shelf(folder)
    }

    /// Puts a source and a warm-up down under the next number of `name` (F3).
    pub(super) fn stage(
        &self,
        name: &str,
        language: Language,
        source: Option<&[u8]>,
        warm: Option<&[u8]>,
    ) -> io::Result<Staged> {
        let parent = self.0.join(name);
        fs::create_dir_all(&parent)?;
        let last = numbers(&parent)?.into_iter().map(|(number, _)| number).max().unwrap_or(0);
        let number = last.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))?;
        let folder = parent.join(format!("{number}{PART}"));
        fs::create_dir(&folder)?;
        let put = |stem: &str, bytes: Option<&[u8]>, extension: &str| {
            let Some(bytes) = bytes else { return Ok(None) };
            let path = folder.join(format!("{stem}.{extension}"));
            fs::write(&path, bytes).map(|()| Some(path))
        };
        let source = put("source", source, extension(language))?;
        let warm = put("warm", warm, extension(language))?;
        let kept = parent.join(number.to_string());
        Ok(Staged { number, source, warm, out: folder.join(BUILT), folder, kept })
    }

    /// Gives a built template its final name (F1); its file.
    pub(super) fn keep(&self, staged: &Staged) -> io::Result<PathBuf> {
        fs::rename(&staged.folder, &staged.kept)?;
        Ok(staged.kept.join(BUILT))
    }

    /// Takes back what was staged, kept or not.
    pub(super) fn discard(&self, staged: &Staged) {
        for folder in [&staged.folder, &staged.kept] {
            // One of them is not there.
            let _ = fs::remove_dir_all(folder);
        }
    }

    /// All built templates, by name and number; what a crash left half made is removed.
    pub(super) fn stored(&self) -> io::Result<Vec<Stored>> {
        let mut stored = Vec::new();
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(stored),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            for (number, whole) in numbers(&entry.path())? {
                if whole {
                    let folder = entry.path().join(number.to_string());
                    let (source, warm) = (of_stem(&folder, "source")?, of_stem(&folder, "warm")?);
                    let (name, file) = (name.clone(), folder.join(BUILT));
                    stored.push(Stored { name, number, file, source, warm });
                } else {
                    fs::remove_dir_all(entry.path().join(format!("{number}{PART}")))?;
                }
            }
        }
        stored.sort_by(|a, b| (&a.name, a.number).cmp(&(&b.name, b.number)));
        Ok(stored)
    }

    /// The number that new agents of `name` get (F2), if it says so.
    pub(super) fn active(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.0.join(name).join("active")).ok()?.trim().parse().ok()
    }

    /// Makes new agents of `name` get `number`, also after a restart (F2).
    pub(super) fn set_active(&self, name: &str, number: u32) -> io::Result<()> {
        let (path, beside) =
            (self.0.join(name).join("active"), self.0.join(name).join("active.part"));
        let mut file = fs::File::create(&beside)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(beside, path)
    }
}

/// The numbers in a template's folder, and whether each is whole. Other names are left alone.
fn numbers(folder: &Path) -> io::Result<Vec<(u32, bool)>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let digits = name.strip_suffix(PART).unwrap_or(&name);
        let number = digits.parse::<u32>().ok().filter(|number| number.to_string() == digits);
        numbers.extend(number.map(|number| (number, digits.len() == name.len())));
    }
    Ok(numbers)
}

/// The file of a folder that has this name before its extension.
fn of_stem(folder: &Path, stem: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|found| found == stem) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// What files of a language are called.
fn extension(language: Language) -> &'static str {
    match language {
        Language::Python => "py",
        Language::JavaScript => "js",
        Language::Wasm => "wasm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_f3_numbers_count_up_and_half_made_ones_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("templates"));
        assert_eq!(shelf.stored().unwrap(), []);
        let stage = || shelf.stage("a", Language::Python, Some(b"x"), None).unwrap();
        let first = stage();
        let second = stage();
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(fs::read(first.source.as_ref().unwrap()).unwrap(), b"x");
        assert!(first.warm.is_none());
        fs::write(&first.out, b"built").unwrap();
        let file = shelf.keep(&first).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"built");
        // What a crash leaves of the second is gone, and its number is free again.
        let source = Some(file.with_file_name("source.py"));
        let stored = [Stored { name: "a".into(), number: 1, file, source, warm: None }];
        assert_eq!(shelf.stored().unwrap(), stored);
        assert_eq!(stage().number, 2);
        shelf.discard(&first);
        assert_eq!(shelf.stored().unwrap(), []);
    }

    #[test]
    fn f2_the_active_number_survives() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned());
        assert_eq!(shelf.active("a"), None);
        shelf.stage("a", Language::Wasm, Some(b""), Some(b"w")).unwrap();
        for number in [3, 1] {
            shelf.set_active("a", number).unwrap();
            assert_eq!(shelf.active("a"), Some(number));
        }
        fs::write(folder.path().join("a/active"), "x").unwrap();
        assert_eq!(shelf.active("a"), None);
    }
}
