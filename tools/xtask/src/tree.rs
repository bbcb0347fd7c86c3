//! The workspace as tidy sees it: packages with their arrows and targets, and source files.
//!
//! Owns: reading `cargo metadata`, walking the folders.  Not: any rule.
//! T1  paths are relative to the root and use `/`, so that a finding reads the same everywhere.

use crate::scan::Source;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One package of the workspace.
pub struct Package {
    /// Its name in `Cargo.toml`.
    pub name: String,
    /// Its folder, relative to the root (T1).
    pub folder: String,
    /// Its licence field.
    pub licence: Option<String>,
    /// All dependencies it declares, of every kind.
    pub dependencies: Vec<String>,
    /// Entry files of its targets, relative to the root (T1).
    pub targets: Vec<String>,
}

/// The repository.
pub struct Tree {
    /// Absolute path of the root.
    pub root: PathBuf,
    /// Members of the workspace.
    pub packages: Vec<Package>,
}

impl Tree {
    /// Asks cargo for the workspace that this xtask belongs to.
    pub fn load() -> Result<Tree> {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let out = Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest])
            .output()
            .context("cannot start cargo")?;
        if !out.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr));
        }
        let metadata: Value = serde_json::from_slice(&out.stdout)?;
        let root = PathBuf::from(text(&metadata, "workspace_root")?);
        let packages = list(&metadata, "packages")?
            .iter()
            .map(|package| Package::read(package, &root))
            .collect::<Result<_>>()?;
        Ok(Tree { root, packages })
    }

    /// The text of a file of the repository.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| format!("cannot read {path}"))
    }

    /// Every Rust file, scanned, in path order.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let paths = self.files()?.into_iter().filter(|path| path.ends_with(".rs"));
        paths.map(|path| Ok(Source::new(self.read(&path)?, path))).collect()
    }

    /// Every file but build outputs and what a dot hides (`.ci` and `.cargo` are seen).
    pub fn files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        walk(&self.root, &self.root, &mut found)?;
        found.sort();
        Ok(found)
    }
}

impl Package {
    fn read(value: &Value, root: &Path) -> Result<Package> {
        let manifest = relative(text(value, "manifest_path")?, root);
        let dependencies = list(value, "dependencies")?
            .iter()
            .map(|dependency| text(dependency, "name").map(str::to_owned))
            .collect::<Result<_>>()?;
        let targets = list(value, "targets")?
            .iter()
            .map(|target| Ok(relative(text(target, "src_path")?, root)))
            .collect::<Result<_>>()?;
        Ok(Package {
            name: text(value, "name")?.to_owned(),
            folder: manifest.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned(),
            licence: value["license"].as_str().map(str::to_owned),
            dependencies,
            targets,
        })
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {folder:?}"))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
        if hidden || matches!(&*name, "target" | "heronry-data" | "__pycache__") {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(root, &entry.path(), found)?;
        } else if kind.is_file() {
            found.push(relative(&entry.path().to_string_lossy(), root));
        }
    }
    Ok(())
}

fn relative(path: &str, root: &Path) -> String {
    let root = root.to_string_lossy();
    path.strip_prefix(&*root).unwrap_or(path).trim_start_matches('/').to_owned()
}

fn text<'v>(value: &'v Value, field: &str) -> Result<&'v str> {
    value[field].as_str().with_context(|| format!("cargo metadata has no {field}"))
}

fn list<'v>(value: &'v Value, field: &str) -> Result<&'v Vec<Value>> {
    value[field].as_array().with_context(|| format!("cargo metadata has no {field}"))
}
