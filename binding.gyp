{
  "targets": [
    {
      # node-gyp builds nothing itself: CMakeLists.txt holds the one source list, and this calls the one build script.
      "target_name": "selfedit",
      "type": "none",
      "actions": [
        {
          "action_name": "build",
          "message": "Building with scripts/build.mjs",
          "inputs": ["<(module_root_dir)/CMakeLists.txt"],
          # Never made, so that the action always runs; the script itself knows what is up to date.
          "outputs": ["<(PRODUCT_DIR)/always"],
          "action": ["node", "<(module_root_dir)/scripts/build.mjs"]
        }
      ]
    }
  ]
}
